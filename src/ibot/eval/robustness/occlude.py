"""Images with patches dropped or blocks shuffled (figures 9, 10, table 8; evaluation 9.5, 9.6).

The published runs choose patches and permutations once per batch, so that results depend on batch
size and order. Here each image has its own, a function of (seed, image index) only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ibot.rng import Purpose, philox


def drop_counts(num_patches: int, steps: int = 10) -> tuple[int, ...]:
    """Patches to drop for the shares 0, 1 / steps, ... below one, rounded down as published."""
    return tuple(i * num_patches // steps for i in range(steps))


def random_patches(index: ArrayLike, num_patches: int, num_dropped: int, seed: int) -> Tensor:
    """Patches to drop at random, a function of (seed, image index) alone.

    With one seed the patches dropped first stay dropped as `num_dropped` grows, as in the published
    runs, which start again from seed 1 at every setting.

    Args:
        index: int [B], numbers of the images in the data set.
        num_patches: N, any size.
        num_dropped: patches to drop in each image, 0..N.
        seed: any integer.

    Returns:
        bool [B, N] on the CPU, True = dropped.

    Raises:
        ValueError: more or fewer patches than there are.
    """
    if not 0 <= num_dropped <= num_patches:
        raise ValueError(f"{num_dropped} of {num_patches} patches cannot be dropped")
    order = _permutations(np.atleast_1d(index), num_patches, seed, Purpose.DROP_PATCHES)
    dropped = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(dropped, order[:, :num_dropped], True, axis=1)
    return torch.from_numpy(dropped)


def drop_patches(images: Tensor, dropped: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Normalised images with the dropped patches at 0, the mean colour of the training set.

    Args:
        images: [B, 3, H, W] after normalisation.
        dropped: bool [B, N], row by row; on any device.
        grid: (h, w) with h * w = N.
        patch: side of a patch in pixels. Pixels beyond the grid, which the network does not see,
            stay as they are.

    Returns:
        New images of the same shape.

    Raises:
        ValueError: shapes or a grid that do not fit.
    """
    rows, columns = grid
    batch, _, height, width = images.shape
    cut, wanted = (height // patch, width // patch), (batch, rows * columns)
    if cut != grid or tuple(dropped.shape) != wanted:
        raise ValueError(
            f"images of shape {tuple(images.shape)} with patches of {patch} pixels do not fit a "
            f"grid of {rows} x {columns} and dropped patches of shape {tuple(dropped.shape)}"
        )
    hidden = dropped.to(images.device).view(batch, 1, rows, columns)
    hidden = hidden.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
    hidden = torch.nn.functional.pad(hidden, (0, width - columns * patch, 0, height - rows * patch))
    return images.masked_fill(hidden, 0)


def shuffle_blocks(images: Tensor, rows: int, columns: int, seed: int, index: ArrayLike) -> Tensor:
    """Images whose `rows` x `columns` blocks change places, by (seed, image index) alone.

    Args:
        images: [B, 3, H, W]; H and W are multiples of `rows` and `columns`.
        rows: blocks from top to bottom.
        columns: blocks from left to right. One row and one column leave the images as they are.
        seed: any integer.
        index: int [B], numbers of the images in the data set. One number gives all images the same
            permutation, as in the published runs (one per batch).

    Returns:
        New images of the same shape.

    Raises:
        ValueError: blocks that do not divide the images, or another number of indices.
    """
    batch, channels, height, width = images.shape
    if rows < 1 or columns < 1 or height % rows or width % columns:
        raise ValueError(
            f"{rows} x {columns} blocks do not divide images of {height} x {width} pixels"
        )
    numbers = np.asarray(index)
    if numbers.shape not in ((), (batch,)):
        raise ValueError(f"indices of shape {numbers.shape} for {batch} images")
    order = _permutations(np.atleast_1d(numbers), rows * columns, seed, Purpose.SHUFFLE_BLOCKS)
    source = torch.from_numpy(order).to(images.device).expand(batch, -1)
    block = (height // rows, width // columns)
    blocks = images.reshape(batch, channels, rows, block[0], columns, block[1]).transpose(3, 4)
    blocks = blocks.reshape(batch, channels, rows * columns, *block)
    image = torch.arange(batch, device=images.device)[:, None]
    moved = blocks[image, :, source]  # [B, blocks, C, block h, block w]
    moved = moved.reshape(batch, rows, columns, channels, *block)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def at_ratio(ratios: Sequence[float], accuracies: Sequence[float], ratio: float = 0.5) -> float:
    """Accuracy at one information loss ratio, linear between the points of a curve (table 8).

    How the paper took this point from its curve is not published; interpolation is an assumption.

    Args:
        ratios: share of dropped patches over the whole set at each point (not the mass), in any
            order; points of the same ratio count with their mean accuracy.
        accuracies: as many, any unit.
        ratio: where to read.

    Returns:
        The accuracy in the unit of `accuracies`.

    Raises:
        ValueError: lists of different lengths or none, or a ratio that the curve does not reach:
            nothing is extrapolated.
    """
    if len(ratios) != len(accuracies) or not len(ratios):
        raise ValueError(f"{len(ratios)} ratios and {len(accuracies)} accuracies are no curve")
    points, member = np.unique(np.asarray(ratios, np.float64), return_inverse=True)
    heights = np.bincount(member, weights=np.asarray(accuracies, np.float64)) / np.bincount(member)
    if not points[0] <= ratio <= points[-1]:
        raise ValueError(
            f"the curve covers ratios from {points[0]:.3g} to {points[-1]:.3g}, not {ratio:.3g}"
        )
    return float(np.interp(ratio, points, heights))


def _permutations(
    index: NDArray[np.integer], size: int, seed: int, purpose: Purpose
) -> NDArray[np.int64]:
    """One order of `size` things for each index: int64 [B, size].

    The counter goes to `philox` directly: `ibot.rng.words` ends at 256 words, grids of small
    patches have more. Sorting by 32-bit words; equal ones (chance size^2 / 2^33) keep their order.
    """
    numbers = np.asarray(index, np.uint64)
    blocks = -(-size // 4)
    counter = np.zeros((len(numbers), blocks, 4), np.uint64)
    counter[..., 0] = (numbers & np.uint64(0xFFFFFFFF))[:, None]
    counter[..., 1] = (numbers >> np.uint64(32))[:, None]
    counter[..., 2] = np.arange(blocks, dtype=np.uint64)
    drawn = philox((seed, purpose), counter).reshape(len(numbers), blocks * 4)[:, :size]
    return np.argsort(drawn, axis=1, kind="stable").astype(np.int64, copy=False)
