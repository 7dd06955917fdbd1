"""Scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

RESAMPLES = 1000


def bootstrap_mean(values: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [n], over resamples of the n values."""
    rows = values.detach().double().cpu().numpy()
    levels, counts = np.unique(rows, return_counts=True)
    if len(levels) > 64:
        return interval([rows[drawn].mean() for drawn in resamples(len(rows), RESAMPLES, seed)])
    # A resample of few levels is a draw of how often each occurs.
    drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=RESAMPLES)
    return interval(drawn @ levels / len(rows))


def resamples(count: int, times: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """`times` draws of `count` row numbers with replacement: int64 [count]."""
    random = np.random.default_rng(seed)
    for _ in range(times):
        yield random.integers(count, size=count)


def interval(values: ArrayLike, around: float | None = None) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of scores of resamples; `around`: shifted to have this mean."""
    scores = np.asarray(values, np.float64)
    low, high = np.percentile(scores, (2.5, 97.5))
    shift = 0.0 if around is None else around - scores.mean()
    return float(low + shift), float(high + shift)


def balanced_accuracy(hits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of `hits` bool [n] in each, in per cent."""
    count = torch.bincount(labels).double()
    right = torch.bincount(labels, weights=hits.double(), minlength=len(count))
    return 100 * (right[count > 0] / count[count > 0]).mean().item()


def topk_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the class is among the `k` largest of `logits` [n, C]: bool [n]."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
