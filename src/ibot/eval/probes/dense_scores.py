"""Uncertainty of scores of label maps: resamples of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ibot.eval.scores import RESAMPLES, interval


def intervals(sums: Tensor, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of mIoU, mAcc and aAcc in per cent, over resamples of the images.

    sums: int64 [n, 3, C], of each image the pixels of each class found, true, and said to be so.
    """
    counts = sums.double().numpy()
    random = np.random.default_rng(seed)
    times = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)
    hits, truth, said = np.einsum("rn,npc->prc", times, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou, accuracy = 100 * hits / (truth + said - hits), 100 * hits / truth
        right = 100 * hits.sum(axis=1) / truth.sum(axis=1)
    found = {"mIoU": mean_of(iou), "mAcc": mean_of(accuracy), "aAcc": right[np.isfinite(right)]}
    return {name: interval(values) for name, values in found.items()}


def mean_of(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the classes that occur of each resample [r, C], where any does."""
    known = np.isfinite(shares)
    some = known.any(axis=1)
    return np.where(known, shares, 0)[some].sum(axis=1) / known[some].sum(axis=1)
