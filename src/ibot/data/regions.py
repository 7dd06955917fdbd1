"""Parts of pictures larger than memory: a box, resized, from the coarsest level that has it.

The pixels are those of `pixels.resized_crop` on the whole level, bit by bit for boxes of up to
`AT_ONCE` pixels. Larger ones are reduced in width one row of tiles after the other, then all
together in height, so that memory is bounded however large the box: a grey level of rounding off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.sets.images import Pixels
from ibot.data.tiled import Box, TiledPicture
from ibot.data.tiled_colours import to_rgb
from ibot.data.tiled_levels import Level

Read = Callable[[TiledPicture, Level, Box], Pixels]
"""A box of a level of a picture as uint8 [h, w, 3] or float32 [h, w, C]."""
AT_ONCE = 2**24
"""Pixels of a level that are resized in one piece."""
_BICUBIC = Image.Resampling.BICUBIC


def read_colours(picture: TiledPicture, level: Level, box: Box) -> NDArray[np.uint8]:
    """Colours uint8 [h, w, 3] of a box of a level. Raises UnreadableImage."""
    return to_rgb(picture.read(level, box), level)


def read_region(
    picture: TiledPicture, box: Box, size: tuple[int, int], read: Read = read_colours
) -> Pixels:
    """A box of a picture, in pixels of its largest level, resized to `size` (height, width).

    Bicubic with antialiasing, of the coarsest level that has as many pixels as `size` wants.
    Raises UnreadableImage, and ValueError for a box that is empty or not inside.
    """
    _require_inside(box, picture.size)
    level = picture.level(min(box[2] / size[0], box[3] / size[1]))
    outer, top, left, height, width = around(box, level)
    # The box in the pixels that hold it.
    inner = (
        left - outer[1],
        top - outer[0],
        min(left - outer[1] + width, outer[3]),
        min(top - outer[0] + height, outer[2]),
    )
    return _resized(picture, level, outer, inner, size, read)


def read_level(
    picture: TiledPicture, box: Box, most: float, read: Read = read_colours
) -> tuple[Pixels, tuple[float, float, float, float]]:
    """What covers a box in the coarsest level that is reduced by `most` or less, as it is stored.

    Returns the pixels and where they lie: top, left, height, width in pixels of the largest level,
    up to a pixel of the chosen one outside of the box. Raises as `read_region`.
    """
    _require_inside(box, picture.size)
    level = picture.level(most)
    outer = around(box, level)[0]
    pixels = read(picture, level, outer)
    high, wide = level.reduced
    return pixels, (outer[0] * high, outer[1] * wide, outer[2] * high, outer[3] * wide)


def _require_inside(box: Box, size: tuple[int, int]) -> None:
    top, left, height, width = box
    inside = top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]
    if not inside or height < 1 or width < 1:
        raise ValueError(f"a box {box} (top, left, height, width) of {size[0]} x {size[1]} pixels")


def around(box: Box, level: Level) -> tuple[Box, float, float, float, float]:
    """The whole pixels of a level that hold a box, and the box itself in pixels of that level."""
    high, wide = level.reduced
    top, left = min(box[0] / high, level.height - 1), min(box[1] / wide, level.width - 1)
    height = min(box[2] / high, level.height - top)
    width = min(box[3] / wide, level.width - left)
    first = math.floor(top), math.floor(left)
    rows = min(level.height, max(first[0] + 1, math.ceil(top + height))) - first[0]
    columns = min(level.width, max(first[1] + 1, math.ceil(left + width))) - first[1]
    return (*first, rows, columns), top, left, height, width


def _resized(
    picture: TiledPicture,
    level: Level,
    outer: Box,
    inner: tuple[float, float, float, float],
    size: tuple[int, int],
    read: Read,
) -> Pixels:
    """The box `inner` (left, top, right, bottom) of the pixels `outer` of a level, resized."""
    top, left, height, width = outer
    if height * width <= AT_ONCE:
        pixels = read(picture, level, outer)
        same = inner == (0, 0, width, height) and size == (height, width)
        return pixels if same else resize(pixels, size, inner)
    narrow, across = [], (inner[0], inner[2])
    step = max(1, level.tile[0])
    start = top
    while start < top + height:
        # To the end of this row of tiles, so that each is decoded once.
        end = min(top + height, (start // step + 1) * step)
        band = read(picture, level, (start, left, end - start, width))
        narrow.append(resize(band, (len(band), size[1]), (across[0], 0, across[1], len(band))))
        start = end
    return resize(np.concatenate(narrow), size, (0, inner[1], size[1], inner[3]))


def resize(pixels: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    """A box (left, top, right, bottom) of pixels [h, w, C] resized as Pillow does; of floats each
    channel by itself.
    """
    wanted = size[1], size[0]
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(wanted, _BICUBIC, box))
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(one)).resize(wanted, _BICUBIC, box))
        for one in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(channels, axis=2)
