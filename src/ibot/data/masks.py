"""Block-wise and random masks of the global views (paper section 3.1 and appendix B, spec 2.3).

Each mask is a function of (seed, epoch, image, view). Block masks are set by array slices; the only
loop is over the blocks of one mask, because each block depends on what the earlier ones left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.schema import MaskConfig
from ibot.rng import MAX_DRAWS, Purpose, uniform, words
from ibot.types import Masks

ATTEMPTS = 10
"""Rectangles tried in a row before a mask is left as it is."""
DRAWS_PER_FETCH = 64
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

    All are empty before `config.start_epoch`. first_view: number of the first of these views among
    all, 0 for the global ones, G for the local ones.
    """
    if epoch < config.start_epoch:
        return masks_from_map(
            torch.zeros(num_views, len(index), grid[0] * grid[1], dtype=torch.bool)
        )
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
    limits = grid if config.full_width else (grid[0] - 1, grid[1] - 1)
    drawn = uniform(
        seed, epoch, index, views[:, None], Purpose.MASK_BLOCK, DRAWS_PER_FETCH
    ).tolist()
    for view, i in zip(*np.nonzero(targets >= 1), strict=True):
        key = (seed, epoch, int(index[i]), int(views[view]))
        _fill_with_blocks(
            maps[view, i], float(targets[view, i]), limits, _four_at_a_time(drawn[view][i], key)
        )
    return maps


def _fill_with_blocks(
    mask: NDArray[np.bool_],
    target: float,
    limits: tuple[int, int],
    draws: Iterator[Sequence[float]],
) -> None:
    """Set rectangles in `mask` [h, w] until `target` cells are hidden or ten in a row fail."""
    height, width = mask.shape
    low = (min(height, width) // 3) ** 2
    hidden, failures = 0, 0
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
        block = mask[top : top + block_h, left : left + block_w]
        new = block_h * block_w - int(np.count_nonzero(block))
        if 0 < new <= room:
            block[...] = True
            hidden, failures = hidden + new, 0


def _four_at_a_time(
    drawn: list[float], key: tuple[int, int, int, int]
) -> Iterator[Sequence[float]]:
    """Endless groups of four numbers for one mask: those of the batch, then further ones."""
    seed, epoch, index, view = key
    for fetched in count():
        for i in range(0, len(drawn), 4):
            yield drawn[i : i + 4]
        # Views beyond the real ones continue the stream of this mask.
        later = view + 256 * (fetched + 1)
        drawn = uniform(seed, epoch, index, later, Purpose.MASK_BLOCK, DRAWS_PER_FETCH).tolist()


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
