"""The images that may be looked at: those of the set, by number, and those dropped on the page."""

from __future__ import annotations

import io
import itertools
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage, decode_file
from ibot.data.false_colours import as_rgb
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images, LabelledImages, Pixels
from ibot.data.sets.subsets import SubsetImages
from ibot.data.sets.trimmed import TrimmedImages
from ibot.data.sets.windows import WindowImages
from ibot.explore.browser.kept import Kept
from ibot.explore.browser.refusal import Refused
from ibot.words import encodable

MAX_DROPPED = 256 * 2**20
"""Bytes of dropped files in memory; the oldest go first."""
MAX_PIXELS = 64_000_000
"""Of a dropped file: what a telephone takes, not a slide that would fill the memory."""
DECODED = 96 * 2**20
"""Bytes of pixels that are kept: several pictures of one image are asked for at once."""
OUTSIDE = "a link that leads out of the data folder"
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_DROPPED = re.compile(r"drop-[1-9][0-9]{0,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An image that somebody dropped on the page."""

    name: str
    content: bytes
    """The file: pixels would take many times as much."""


class Shelf:
    """Images by their ids: numbers of the set as text, or "drop-1" and so on."""

    def __init__(self, images: Images | None, *, links: bool = False) -> None:
        """links: also show files of the set that lie outside of its folder."""
        self.images, self.links = images, links
        self.root = os.path.realpath(images.root) if images is not None else ""
        self._dropped: OrderedDict[str, Dropped] = OrderedDict()
        self._count = itertools.count(1)
        self._lock = threading.Lock()
        self._decoded: Kept[Pixels] = Kept(DECODED, lambda pixels: pixels.nbytes)

    def __len__(self) -> int:
        """Images of the set."""
        return 0 if self.images is None else len(self.images)

    def check(self, image: str) -> str:
        """The id, as it is written everywhere. Raises Refused for images that are not there."""
        if _DROPPED.fullmatch(image):
            self._drop(image)
            return image
        if self.images is None:
            raise Refused(404, "there are no images", fix="name them with --data")
        if not _NUMBER.fullmatch(image) or int(image) >= len(self):
            why = f"the set has images 0 to {len(self) - 1}"
            raise Refused(404, f"there is no image '{image[:40]}'", why=why)
        return str(int(image))

    def row(self, image: str) -> int | None:
        """Number in the set; None for a dropped image."""
        return int(image) if image.isdecimal() else None

    def name(self, image: str) -> str:
        """What it is called."""
        row = self.row(image)
        if row is None:
            return self._drop(image).name
        assert self.images is not None
        return encodable(self.images.name(row))

    def label(self, image: str) -> str | None:
        """Its class, where it has one."""
        row = self.row(image)
        if row is None or not isinstance(self.images, LabelledImages):
            return None
        return encodable(self.images.classes[self.images.label(row)])

    def shown(self, image: str) -> NDArray[np.uint8]:
        """Pixels as colours, uint8 [H, W, 3]; see `ibot.show.colours`. Raises as `pixels`."""
        pixels = self.pixels(image)
        return pixels if pixels.dtype == np.uint8 else as_rgb(pixels)

    def pixels(self, image: str) -> Pixels:
        """Pixels uint8 [H, W, 3], or float32 [H, W, C] of other channels.

        Raises UnreadableImage, also for what may not be shown.
        """
        return self._decoded.get(image, lambda: self._read(image))

    def drop(self, name: str, content: bytes) -> str:
        """Take an image; returns its id. Raises Refused for one that cannot be read."""
        try:
            decode_file(io.BytesIO(content), "apply", MAX_PIXELS)
        except UnreadableImage as error:
            why, fix = error.reason, "drop a JPEG, PNG or WebP file"
            if error.reason == "too many pixels":
                why = f"at most {MAX_PIXELS / 1e6:.0f} million pixels are taken"
                fix = "drop it in a smaller size"
            elif error.reason == "truncated":
                why = "the file ends before the image does: it was not copied whole"
                fix = "copy or save it again"
            elif error.reason == "corrupt":
                why, fix = "what it holds is damaged", "copy or save it again"
            raise Refused(415, "it cannot be shown", why=why, fix=fix) from None
        with self._lock:
            image = f"drop-{next(self._count)}"
            self._dropped[image] = Dropped(encodable(name), content)
            while sum(len(one.content) for one in self._dropped.values()) > MAX_DROPPED:
                self._dropped.popitem(last=False)
        return image

    def _drop(self, image: str) -> Dropped:
        try:
            return self._dropped[image]
        except KeyError:
            raise Refused(
                404,
                f"'{image}' is not here",
                why="dropped images are kept while the explorer runs, the latest of them",
                fix="drop the file again",
            ) from None

    def _read(self, image: str) -> Pixels:
        row = self.row(image)
        if row is None:
            return decode_file(io.BytesIO(self._drop(image).content), "apply", MAX_PIXELS)
        assert self.images is not None
        if not self.links and (path := path_of(self.images, row)) is not None:
            # As the link leads now: a set is taken to stay as it is, but this is no promise.
            real = os.path.realpath(path)
            if os.path.commonpath([self.root, real]) != self.root:
                raise UnreadableImage(OUTSIDE, "--links shows such files")
        return self.images.read(row)


def path_of(images: Images, row: int) -> Path | None:
    """The file of an image; None for one in an archive or in memory."""
    while isinstance(images, SubsetImages | TrimmedImages | WindowImages):
        if isinstance(images, WindowImages):
            row = images.place(row).picture
        elif isinstance(images, SubsetImages):
            row = int(images.indices[row])
        images = images.base
    if isinstance(images, FileImages) and images.archives is None:
        return images.path(row)
    return None
