"""Images in .npy files: [H, W], [H, W, C] or [C, H, W]."""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ibot.data.channels.levels import Levels, names_of, to_levels
from ibot.data.channels.stored import Header, How, require_size
from ibot.data.decode import UnreadableImage

SIGNATURE = b"\x93NUMPY"


def npy_header(file: BinaryIO, how: How) -> Header:
    """Size and channels. Raises UnreadableImage."""
    shape, _, _ = _read_header(file)
    first = channels_first(shape)
    shape = (*shape, 1)[:3]
    count, height, width = shape if first else (shape[2], *shape[:2])
    require_size(height, width, count, how)
    return Header(height, width, names_of(count))


def read_npy(file: BinaryIO, how: How) -> Levels:
    """All channels. Raises UnreadableImage."""
    header = npy_header(file, how)
    file.seek(0)
    shape, fortran, dtype = _read_header(file)
    wanted = math.prod(shape) * dtype.itemsize
    content = file.read(wanted)
    if len(content) < wanted:
        raise UnreadableImage("truncated")
    values: NDArray[Any] = np.frombuffer(content, dtype)
    values = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    if channels_first(shape):
        values = np.moveaxis(values, 0, -1)
    elif len(shape) == 2:
        values = values[..., None]
    return Levels(np.ascontiguousarray(to_levels(values, no_data=how.no_data)), header.names)


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the first of three axes is that of the channels, else the last is.

    It is the one that is smaller than both others. Raises UnreadableImage where neither is, and for
    other numbers of axes.
    """
    if len(shape) == 2:
        return False
    if len(shape) != 3:
        raise UnreadableImage(f"{len(shape)} axes", "an image is [H, W], [H, W, C] or [C, H, W]")
    first, middle, last = shape
    if first < min(middle, last):
        return True
    if last < min(first, middle):
        return False
    raise UnreadableImage(
        f"no axis of {list(shape)} is plainly that of the channels",
        "it is taken to be the first or the last, and smaller than both others",
    )


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # the header is Python's text, and its reader raises almost anything
        raise UnreadableImage("corrupt", " ".join(str(error).split())[:100]) from None
    if dtype.hasobject or dtype.names:
        raise UnreadableImage("values that are no numbers", "store whole numbers, floats or bool")
    return shape, fortran, dtype
