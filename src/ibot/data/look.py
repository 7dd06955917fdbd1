"""What one image is like: its file, its pixels, and a thumbnail by which copies are known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch.utils.data import Dataset

from ibot.data.channels.images import ChannelImages
from ibot.data.channels.sources import LevelFiles
from ibot.data.decode import UnreadableImage, open_image
from ibot.data.quiet import quiet
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images
from ibot.data.survey import COLOUR_SPREAD
from ibot.data.workers import read_items

HASHED = 2**28
"""Bytes of the largest file that is compared with others; larger ones are read in parts alone."""
SIDE = 16
"""Of the thumbnail, in pixels."""
AT_ONCE = 8
"""Images that a process looks at before it says so."""
_BITS, _ORIENTATION = 258, 0x0112
_PLAIN = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
"""Bits of a level by Pillow's modes; 8 of all others."""


@dataclass(frozen=True, slots=True)
class Look:
    """An image as it was found."""

    index: int
    broken: str = ""
    """Why it gives no pixels; then most of what follows is empty."""
    format: str = ""
    """Pillow's word for its form; "array" of pixels in memory and of images of several files, "?"
    where it is unknown.
    """
    mode: str = ""
    """Pillow's word for its bands, as RGB, L, CMYK."""
    bits: int = 8
    """Of a level in the file."""
    turned: bool = False
    """Whether its EXIF tag says that it lies."""
    num_bytes: int = 0
    sha256: str = ""
    """Of the file, in hex; empty of pixels in memory and of files above `HASHED` bytes."""
    height: int = 0
    width: int = 0
    gray: bool = False
    mean: tuple[float, ...] = ()
    """Of each channel, in levels 0..1."""
    square: tuple[float, ...] = ()
    """Mean of the squares of each channel."""
    thumbnail: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """float32 [16 * 16 * C], all parts of the image shrunk to 16 x 16 pixels."""


def look(images: Images, index: int) -> Look:
    """Look at an image; never raises for what is in its file."""
    file = _file(images, index)
    try:
        pixels = images.read(index)
    except UnreadableImage as error:
        return Look(index, str(error), **file)
    levels = np.asarray(pixels, np.float32)
    if pixels.dtype == np.uint8:
        levels /= 255
    flat = levels.reshape(-1, levels.shape[-1])
    small = _thumbnail(levels)
    spread = small.max(-1) - small.min(-1)
    return Look(
        index,
        height=pixels.shape[0],
        width=pixels.shape[1],
        gray=flat.shape[1] == 3 and float(spread.mean()) < COLOUR_SPREAD / 255,
        mean=tuple(flat.mean(0, dtype=np.float64).tolist()),
        square=tuple(np.square(flat).mean(0, dtype=np.float64).tolist()),
        thumbnail=small.reshape(-1),
        **file,
    )


def _thumbnail(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[H, W, C] -> [16, 16, C]: mean of each part."""
    size, box = (SIDE, SIDE), Image.Resampling.BOX
    bands = [
        np.asarray(Image.fromarray(np.ascontiguousarray(levels[..., c])).resize(size, box))
        for c in range(levels.shape[-1])
    ]
    return np.stack(bands, -1)


def _file(images: Images, index: int) -> dict[str, Any]:
    """What the file of an image says: fields of `Look`."""
    if isinstance(images, ChannelImages) and isinstance(images.base, LevelFiles):
        images = images.base.base
    if not isinstance(images, FileImages):
        return {"format": "array"}
    try:
        if images.archives is None:
            path = images.path(index)
            size = path.stat().st_size
            if size > HASHED:
                with path.open("rb") as file:
                    return {"num_bytes": size, **_header(file)}
            content = path.read_bytes()
        else:
            content = images.archives.open(images.root, index).read()
    except (OSError, UnreadableImage):
        return {"format": "?"}
    digest = hashlib.sha256(content).hexdigest()
    return {"num_bytes": len(content), "sha256": digest, **_header(io.BytesIO(content))}


def _header(file: BinaryIO) -> dict[str, Any]:
    """What Pillow knows before it reads pixels."""
    with quiet():
        try:
            image = open_image(file, 2**62)
        except (UnreadableImage, UnidentifiedImageError, OSError):
            return {"format": "?"}
        try:
            orientation = int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # on damaged bytes Pillow's readers raise almost anything
            orientation = 1
        return {
            "format": image.format or "?",
            "mode": image.mode,
            "bits": _depth(image, file),
            "turned": 2 <= orientation <= 8,
        }


def _depth(image: Image.Image, file: BinaryIO) -> int:
    """Bits of a level in the file, which Pillow's mode does not always say."""
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS, 1)
        return int(max(bits) if isinstance(bits, tuple) else bits)
    if image.format == "PNG":
        file.seek(24)
        return max(file.read(1), default=8) or 8
    return _PLAIN.get(image.mode, 8)


class Looks(Dataset[list[Look]]):
    """Looks at images, some at a time, for processes that share them."""

    def __init__(self, images: Images, chosen: Sequence[int]) -> None:
        self.images, self.chosen = images, chosen

    def __len__(self) -> int:
        return -(-len(self.chosen) // AT_ONCE)

    def __getitem__(self, number: int) -> list[Look]:
        few = self.chosen[number * AT_ONCE : (number + 1) * AT_ONCE]
        return [look(self.images, int(index)) for index in few]


def looks(images: Images, chosen: Sequence[int], workers: int = 0) -> Iterator[Look]:
    """Look at the chosen images in order, in so many processes. Raises ResourceError as
    `read_items`.
    """
    each = AT_ONCE * SIDE * SIDE * 4 * len(images.channels)
    for few in read_items(Looks(images, chosen), workers, each, batch_size=None):
        yield from few
