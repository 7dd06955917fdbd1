"""Labels of patches by those of similar patches: arithmetic alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibot.rng import Purpose, words

QUERIES = 1024
"""Patches whose neighbours' labels are held at a time: k x C numbers each."""
CLASSES = 16
"""Classes whose maps are enlarged at a time."""


def label_shares(
    labels: NDArray[np.int16], grid: tuple[int, int], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Share of each class among the pixels of each patch that count.

    A pixel belongs to the patch that holds its centre. labels: [H, W], negative where left out;
    grid: rows and columns of the patches that cover the image.
    Returns float32 [N, C], and the number of such pixels int64 [N]; rows without any are zero.
    """
    rows, columns = (
        ((np.arange(side) + 0.5) * count / side).astype(np.int64)
        for side, count in zip(labels.shape, grid, strict=True)
    )
    cells = rows[:, None] * grid[1] + columns
    kept = labels >= 0
    pairs = cells[kept] * num_classes + labels[kept]
    size = grid[0] * grid[1]
    counts = np.bincount(pairs, minlength=size * num_classes).reshape(size, num_classes)
    pixels = counts.sum(axis=1)
    shares = counts / np.maximum(pixels, 1)[:, None]
    return torch.from_numpy(shares.astype(np.float32)), torch.from_numpy(pixels)


def drawn(candidates: NDArray[np.int64], count: int, seed: int, image: int) -> NDArray[np.int64]:
    """At most `count` of the numbers of an image's patches, rising; a function of seed and image.

    Each candidate is as likely as any other, whatever the other images.
    """
    if len(candidates) <= count:
        return candidates
    keys = words(seed, 0, image, candidates, Purpose.DENSE_BANK, 2)
    order = np.argsort((keys[:, 0] << np.uint64(32)) | keys[:, 1], kind="stable")
    return np.sort(candidates[order[:count]])


def voted(values: Tensor, index: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Shares of the classes for each patch: the mean of its neighbours', by softmax weights.

    Args:
        values: [q, k], their similarities.
        index: int64 [q, k], their rows in the bank.
        shares: float32 [n, C], of the patches of the bank.
        temperature: similarities are divided by it.

    Returns:
        float32 [q, C]; each row sums to 1.
    """
    weights = F.softmax(values.float() / temperature, dim=1)
    parts = zip(weights.split(QUERIES), index.split(QUERIES), strict=True)
    return torch.cat([torch.einsum("qk,qkc->qc", w, shares[i]) for w, i in parts])


def enlarged(shares: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The class of each pixel: shares [N, C] of patches enlarged bilinearly, then the largest.

    Of equal ones the first class. Returns int64 [H, W] for `size` (H, W).
    """
    best = torch.full(size, -torch.inf, device=shares.device)
    classes = torch.zeros(size, dtype=torch.int64, device=shares.device)
    maps = shares.T.unflatten(1, grid)
    for start in range(0, len(maps), CLASSES):  # all of 150 classes would fill the memory
        some = F.interpolate(maps[None, start : start + CLASSES], size, mode="bilinear")[0]
        value, found = some.max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        classes = torch.where(better, found + start, classes)
    return classes
