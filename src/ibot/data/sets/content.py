"""How much of a window there is to learn from: tissue, or pixels that were measured at all."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.regions import around
from ibot.data.sets.images import Images, Pixels
from ibot.data.sets.region_files import Tiles, tiles_of, whole
from ibot.data.tiled import Box
from ibot.data.tiled_levels import Level

SIDE = 16
"""Pixels a side that a window has at least in the level in which its content is counted."""
SPREAD, BRIGHT, DARK = 16, 200, 8
"""Of 255. Glass is bright and without colour: its channels are less than SPREAD apart, and the
highest is BRIGHT or more. What was not scanned is black: the highest is at most DARK."""
KEPT = 2**22
"""Pixels of a level of which the sums are kept, so that windows beside each other share its
tiles."""


def content(images: Images, picture: int, box: Box) -> float:
    """Share 0..1 of the pixels in a box of an image that are neither glass nor unscanned; of other
    channels than colours of those that were measured.

    Counted in the coarsest level in which the box has `SIDE` pixels a side. Raises UnreadableImage.
    """
    most = max(1.0, min(box[2:]) / SIDE)
    tiles = tiles_of(images, picture)
    if tiles is None:
        top, left, height, width = box
        part = whole(images, picture)[top : top + height, left : left + width]
        step = int(most)
        return float(tissue(part[::step, ::step]).mean())
    level = tiles.picture.level(most)
    place = around(box, level)[0]
    sums = _sums(tiles, level) if level.height * level.width <= KEPT else None
    if sums is None:
        return float(tissue(tiles.read(tiles.picture, level, place)).mean())
    top, left, height, width = place
    bottom, right = top + height, left + width
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return float(inside) / (height * width)


def tissue(pixels: Pixels) -> NDArray[np.bool_]:
    """Which pixels [h, w, C] are neither glass nor unscanned: bool [h, w]. Of levels of other
    channels than colours those with a number, and not 0, in any channel.
    """
    if pixels.dtype != np.uint8:
        return (np.nan_to_num(pixels) != 0).any(axis=2)
    high = pixels.max(axis=2)
    colourless = high - pixels.min(axis=2) < SPREAD
    return (high > DARK) & ~(colourless & (high >= BRIGHT))


@lru_cache(maxsize=4)
def _sums(tiles: Tiles, level: Level) -> NDArray[np.int32] | None:
    """Pixels of tissue above and left of each corner of a level: int32 [h + 1, w + 1]; None where a
    tile of it cannot be read, which is no reason to do without the others.
    """
    whole_level = 0, 0, level.height, level.width
    try:
        mask = tissue(tiles.read(tiles.picture, level, whole_level))
    except UnreadableImage:
        return None
    sums = np.zeros((level.height + 1, level.width + 1), np.int32)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    return sums
