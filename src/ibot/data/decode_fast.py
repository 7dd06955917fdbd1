"""As `decode`, with JPEG by simplejpeg where that gives Pillow's pixels: a quarter faster.

Headers of the plainest kind are read here; Pillow reads all others, so that sizes, orientation and
what is refused are the same, and decodes whatever is not a plain RGB JPEG, whatever simplejpeg
refuses or warns of, and everything where simplejpeg is not installed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.config.reading import MAX_PIXELS
from ibot.data import decode as pillow
from ibot.data.decode import Orientation
from ibot.data.jpeg_header import plain_size
from ibot.data.quiet import quiet
from ibot.data.sets.images import Room

USUAL, HEAD = 2**20, 2**15
"""Bytes of which nearly all files have less, and in which their headers end."""
_OWN = threading.local()
_JPEG = b"\xff\xd8\xff"


def reader() -> str:
    """What decodes plain JPEG files, with its version; empty where simplejpeg is not installed."""
    if _decoder() is None:
        return ""
    import simplejpeg

    return f"simplejpeg {simplejpeg.__version__}"


def decode(
    path: str | Path,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    room: Room | None = None,
) -> NDArray[np.uint8]:
    """As `decode.decode`: uint8 [H, W, 3], in `room` where they can be. Raises UnreadableImage."""
    # By the name, as a guess that costs nothing where it is wrong: files are read twice otherwise.
    if _decoder() is not None and os.fspath(path).lower().endswith((".jpg", ".jpeg")):
        with suppress(Exception):  # as below
            return _plain(_content(path), max_pixels, room)
    with pillow.opened(path) as file:
        return decode_file(file, exif_orientation, max_pixels, room)


def decode_file(
    file: BinaryIO,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    room: Room | None = None,
) -> NDArray[np.uint8]:
    """As `decode.decode_file`, of an open file or a buffer that stands at its start; in `room`
    where they can be.
    """
    is_jpeg = file.read(len(_JPEG)) == _JPEG
    file.seek(0)
    if _decoder() is not None and is_jpeg:
        # Whatever goes wrong here, Pillow's reader finds out what it is.
        with suppress(Exception):
            if isinstance(file, BytesIO):
                return _plain(file.getbuffer(), max_pixels, room)
        with suppress(Exception):
            (height, width), turn = _opened(file, exif_orientation)
            if height * width <= max_pixels:
                file.seek(0)
                pixels = _decoded(file.read(), (height, width), room if turn is None else None)
                return pixels if turn is None else _turned(pixels, turn)
        file.seek(0)
    return pillow.decode_file(file, exif_orientation, max_pixels)


def _content(path: str | Path) -> memoryview:
    """All bytes of a file, until this thread reads the next one. Raises ValueError for large ones.

    A new piece of memory for each, and the layers of `open`, cost as much as the reading.
    """
    if not hasattr(_OWN, "memory"):
        _OWN.memory = memoryview(bytearray(USUAL))
    with FileIO(path) as file:
        size = file.readinto(_OWN.memory)
    if size == USUAL:
        raise ValueError("there may be more of it")
    return _OWN.memory[:size]


def _plain(data: memoryview, max_pixels: int, room: Room | None) -> NDArray[np.uint8]:
    """Pixels of a JPEG with a plain header. Raises anything for others."""
    size = plain_size(bytes(data[:HEAD]))
    if size is None or size[0] * size[1] > max_pixels:
        raise ValueError("for Pillow")
    return _decoded(data, size, room)


def _opened(
    file: BinaryIO, exif_orientation: Orientation
) -> tuple[tuple[int, int], Image.Transpose | None]:
    """Stored height and width of a JPEG in RGB, and what turns it, by Pillow. Raises anything for
    others.
    """
    file.seek(0)
    with quiet():
        # Named, as otherwise readers that know no signature are tried before.
        image = Image.open(file, formats=("JPEG",))
        turn = pillow.turn_upright(image) if exif_orientation == "apply" else None
    if image.mode != "RGB":
        raise ValueError("other channels are Pillow's")
    return (image.height, image.width), turn


def _decoded(
    data: bytes | memoryview, size: tuple[int, int], room: Room | None
) -> NDArray[np.uint8]:
    """Pixels of a JPEG of `size` by simplejpeg. Raises anything."""
    decode_jpeg, place = _decoder(), None if room is None else room(*size)
    assert decode_jpeg is not None
    buffer = {} if place is None else {"buffer": place.reshape(-1)}
    pixels = decode_jpeg(data, "RGB", **buffer)
    if pixels.shape[:2] != size:
        raise ValueError("the header says otherwise")
    return pixels if place is None else place


def _turned(pixels: NDArray[np.uint8], turn: Image.Transpose) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).transpose(turn))


@cache
def _decoder() -> Callable[..., NDArray[Any]] | None:
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg
