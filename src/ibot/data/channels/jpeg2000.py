"""JPEG 2000 of any number of components and bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from ibot.data.channels.levels import Levels, names_of, to_levels
from ibot.data.channels.stored import Header, How, require_size
from ibot.data.decode import UnreadableImage
from ibot.errors import MissingExtra

SIGNATURES = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
"""Of a file, and of a bare stream."""
_SIZES = b"\xff\x4f\xff\x51"
"""Start of the stream, and the marker of what stands in it at once: sizes and components."""
_WITHIN = 2**16
"""Bytes in which it is looked for; colour profiles stand before it."""
_SYCC = b"\0\x12"


@dataclass(frozen=True, slots=True)
class _Components:
    height: int
    width: int
    count: int
    bits: int
    signed: bool
    ordinary: bool
    """Palettes and luma with colour difference, for the ordinary decoder."""


def jpeg2000_header(file: BinaryIO, how: How) -> Header | None:
    """Size and channels; None where the ordinary decoder has to read it. Raises UnreadableImage."""
    found = _components(file)
    require_size(found.height, found.width, found.count, how)
    return None if found.ordinary else Header(found.height, found.width, names_of(found.count))


def read_jpeg2000(file: BinaryIO, how: How) -> Levels:
    """All channels. Raises UnreadableImage, MissingExtra without imagecodecs."""
    found = _components(file)
    file.seek(0)
    try:
        from imagecodecs import jpeg2k_decode
    except ImportError:
        raise MissingExtra("imagecodecs", "channels") from None
    try:
        values = jpeg2k_decode(file.read())
    except Exception as error:  # its own kinds
        raise UnreadableImage("corrupt", " ".join(str(error).split())[:100]) from None
    values = values.reshape(found.height, found.width, found.count)
    levels = to_levels(values, bits=found.bits, no_data=how.no_data)
    return Levels(levels, names_of(found.count))


def _components(file: BinaryIO) -> _Components:
    head = file.read(_WITHIN)
    start = head.find(_SIZES) + len(_SIZES)
    try:
        if start < len(_SIZES):
            raise UnreadableImage("corrupt", "no stream of JPEG 2000")
        right, bottom, left, top = struct.unpack_from(">4I", head, start + 4)
        (count,) = struct.unpack_from(">H", head, start + 36)
        parts = [head[start + 38 + 3 * i : start + 41 + 3 * i] for i in range(count)]
        depth, *steps = parts[0]
    except (struct.error, IndexError, ValueError):
        raise UnreadableImage("truncated") from None
    if any(part != parts[0] for part in parts):
        if count in (3, 4) and all(part[0] == 7 for part in parts):
            return _Components(bottom - top, right - left, count, 8, False, True)
        raise UnreadableImage("components of different sizes or types")
    boxes = head[: start - len(_SIZES)]
    colour = boxes.find(b"colr")
    ordinary = b"pclr" in boxes or (colour > 0 and boxes[colour + 9 : colour + 11] == _SYCC)
    if ordinary and depth != 7:
        raise UnreadableImage("colours that are read with 8 bits only")
    height, width = -(-(bottom - top) // steps[1]), -(-(right - left) // steps[0])
    return _Components(height, width, count, (depth & 127) + 1, depth > 127, ordinary)
