"""Block-wise and random masks of the global views (paper section 3.1 and appendix B, spec 2.3).

Each mask is a function of (seed, epoch, image, view). The only loop is over the blocks of one mask,
because each block depends on what the earlier ones left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ibot.config.schema import MaskConfig
from ibot.rng import MAX_DRAWS, Purpose, uniform, words
from ibot.types import Masks

ATTEMPTS = 10
"""Rectangles tried in a row before a mask is left as it is."""
DRAWS_PER_FETCH, FETCHED = 64, 2
"""Numbers that are drawn for a mask at a time, and how often for all masks of a batch: a quarter of
those of published sizes need the second."""
LOG_ASPECT = math.log(1 / 0.3)
"""Blocks have an aspect between 0.3 and 1 / 0.3, drawn on a log scale."""


def make_masks(
    config: MaskConfig,
    grid: tuple[int, int],
    num_views: int,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    *,
    first_view: int = 0,
) -> Masks:
    """Masks of views of one size of the images `index` [B] in one epoch.

    Before `config.start` a step empties them; of those on attention it takes how many patches they
    hide, and no more. first_view: number of the first of these views among all, 0 for the global
    ones, G for the local ones.
    """
    targets = mask_ratios(config, num_views, seed, epoch, index, first_view) * (grid[0] * grid[1])
    views = np.arange(first_view, first_view + num_views)
    draw = _block_masks if config.shape == "block" else _random_masks
    maps = draw(config, targets, grid, seed, epoch, index, views)
    return masks_from_map(torch.from_numpy(maps).flatten(2))


def mask_ratios(
    config: MaskConfig,
    num_views: int,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    first_view: int = 0,
) -> NDArray[np.float64]:
    """Share of patches to hide, [V, B]: a random pair of `config.ratio`, uniform within (2.3.1)."""
    views = np.arange(first_view, first_view + num_views)
    # All views of an image share the draws of view 0 when the ratio is per image.
    keys = views * (config.ratio_per == "view")
    drawn = uniform(seed, epoch, index[None, :], keys[:, None], Purpose.MASK_RATIO, 2)
    pairs = np.asarray(config.ratio, dtype=np.float64)
    mean, half_width = np.moveaxis(pairs[(drawn[..., 0] * len(pairs)).astype(int)], -1, 0)
    ratios = mean + half_width * (2 * drawn[..., 1] - 1)
    if config.views == "first":
        ratios[views > 0] = 0.0
    return ratios


def masks_from_map(hidden: Tensor, dtype: torch.dtype = torch.float32) -> Masks:
    """Indices and loss weights of a map bool [G, B, N], True = hidden."""
    count = hidden.sum(dim=-1, keepdim=True).clamp(min=1).to(dtype)
    return Masks(hidden, hidden.flatten().nonzero()[:, 0], (1 / count).expand_as(hidden)[hidden])


def with_visible(masks: Masks, pairs: Masks | None = None) -> Masks:
    """The same with the patches that are not hidden in a loss of their own.

    pairs: which patches show a part of the image that the other view shows too, and which patch
    does there (`ibot.data.pairs`): then the loss is of these alone, and asks for those.
    """
    if pairs is None or pairs.target is None:
        return replace(masks, visible=masks_from_map(~masks.map, masks.weight.dtype))
    paired = torch.zeros_like(masks.map)
    paired.view(-1)[pairs.index] = True
    visible = masks_from_map(paired & ~masks.map, masks.weight.dtype)
    partner = torch.zeros(masks.map.numel(), dtype=torch.int64)
    partner[pairs.index] = pairs.target
    return replace(masks, visible=replace(visible, target=partner[visible.index]))


def _block_masks(
    config: MaskConfig,
    targets: NDArray[np.float64],
    grid: tuple[int, int],
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    views: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Maps bool [V, B, h, w] with about `targets` [V, B] hidden cells in rectangles (2.3.2)."""
    maps = np.zeros((*targets.shape, *grid), dtype=bool)
    low = config.min_block or (min(grid) // 3) ** 2
    limits = grid if config.full_width else (grid[0] - 1, grid[1] - 1)
    view, image = np.nonzero(targets >= 1)
    if not len(view):
        return maps
    keys = index[image], views[view]
    drawn = _draws(seed, epoch, *keys, np.arange(FETCHED)).tolist()
    # A mask is one whole number with a bit for each cell: to set a block is a few operations.
    num_bytes = -(-grid[0] * grid[1] // 8)
    numbers = []
    for target, few, i, v in zip(
        targets[view, image].tolist(), drawn, *(key.tolist() for key in keys), strict=True
    ):
        draws = _four_at_a_time(few, (seed, epoch, i, v))
        numbers.append(_blocks(target, grid, low, limits, draws).to_bytes(num_bytes, "little"))
    bits = np.frombuffer(b"".join(numbers), np.uint8).reshape(-1, num_bytes)
    cells = np.unpackbits(bits, axis=1, count=grid[0] * grid[1], bitorder="little")
    maps[view, image] = cells.reshape(-1, *grid)
    return maps


def _blocks(
    target: float,
    grid: tuple[int, int],
    low: int,
    limits: tuple[int, int],
    draws: Iterator[Sequence[float]],
) -> int:
    """Cells of rectangles on a grid [h, w], until `target` are hidden or ten rectangles in a row
    fail: cell (y, x) is bit y * w + x.

    low: least area drawn for a rectangle. limits: its greatest height and width.
    """
    height, width = grid
    mask, hidden, failures = 0, 0, 0
    first_column = _first_columns(height, width)
    # With less than one cell of room nothing fits any more (quirk Q17: the published code tries ten
    # times).
    while target - hidden >= 1 and failures < ATTEMPTS:
        room = target - hidden
        u_area, u_aspect, u_top, u_left = next(draws)
        # `low` may exceed `room`: the published draw runs between swapped ends.
        area = low + (room - low) * u_area
        aspect = math.exp(LOG_ASPECT * (2 * u_aspect - 1))
        block_h, block_w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failures += 1
        if not (0 < block_h <= limits[0] and 0 < block_w <= limits[1]):
            continue
        top, left = int(u_top * (height - block_h + 1)), int(u_left * (width - block_w + 1))
        # A row of ones at each cell of the first column.
        block = ((1 << block_w) - 1) * first_column[block_h] << (top * width + left)
        new = block_h * block_w - (mask & block).bit_count()
        if 0 < new <= room:
            mask |= block
            hidden, failures = hidden + new, 0
    return mask


@cache
def _first_columns(height: int, width: int) -> tuple[int, ...]:
    """The first column of a grid down to each row: none of it, its uppermost cell, ..."""
    columns = [0]
    for row in range(height):
        columns.append(columns[-1] | 1 << (row * width))
    return tuple(columns)


def _four_at_a_time(
    drawn: list[float], key: tuple[int, int, int, int]
) -> Iterator[Sequence[float]]:
    """Endless groups of four numbers for one mask: those of the batch, then further ones."""
    for fetched in count(FETCHED):
        for i in range(0, len(drawn), 4):
            yield drawn[i : i + 4]
        drawn = _draws(*key, fetched).tolist()


def _draws(
    seed: int, epoch: int, index: ArrayLike, view: ArrayLike, fetched: ArrayLike
) -> NDArray[np.float64]:
    """Numbers of the masks of n images and views, those of all fetches [f] in a row: [n, f * 64],
    or of a single mask and fetch [64].
    """
    # Views beyond the real ones continue the stream of a mask.
    views = np.asarray(view)[..., None] + 256 * np.asarray(fetched)
    index = np.asarray(index)[..., None]
    drawn = uniform(seed, epoch, index, views, Purpose.MASK_BLOCK, DRAWS_PER_FETCH)
    return drawn.reshape(*drawn.shape[:-2], -1)


def _random_masks(
    config: MaskConfig,
    targets: NDArray[np.float64],
    grid: tuple[int, int],
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    views: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Maps bool [V, B, h, w] with int(target) hidden cells, all sets equally likely (2.3.3)."""
    cells = grid[0] * grid[1]
    # One word per cell, in chunks of what one counter gives; the cells with the smallest words are
    # hidden.
    chunks = np.arange(-(-cells // MAX_DRAWS)) * 256
    keys = chunks + views[:, None, None]
    drawn = words(seed, epoch, index[:, None], keys, Purpose.MASK_RANDOM, MAX_DRAWS)
    drawn = drawn.reshape(*targets.shape, -1)[..., :cells]
    rank = drawn.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    return (rank < targets.astype(np.int64)[..., None]).reshape(*targets.shape, *grid)
