"""Multinomial logistic regression on frozen features (spec_evaluation 8.3).

Minimises (1/n) sum of losses + (penalty / 2) ||W||^2 over W [C, D], without intercept. With three
classes or more scikit-learn's `LogisticRegression(C=1 / (n * penalty), fit_intercept=False)` is the
same; for two it fits one vector and needs twice that C.

Samples are read in chunks, each brought to the device of the labels and to float64. They may lie in
a file: neither a fit nor the cross-validation holds a copy of them.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibot.errors import MissingExtra
from ibot.system.progress import Progress

PUBLISHED_PENALTIES = (0.01, 0.1, 1.0)
"""To be divided by the number of training images: penalty = value / n. As they are, the weights
hardly leave zero and classes are told apart by their means alone (58.0 instead of 65.9 per cent
on 1% of ImageNet)."""

MAX_ITERATIONS = 10_000

CHUNK = 2048
"""Samples in float64 at a time: few, to stay in the cache of a CPU between the products."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Features, or some of them, that are selected and scaled chunk by chunk as they are read."""

    features: Tensor
    """[N, D], any float type and device; may be mapped from a file."""
    chosen: Tensor | None = None
    """int64 [n] on the same device, the numbers of the rows, rising lest a file be read to and
    fro. None: all."""
    unit: bool = False
    """Bring rows to length 1."""

    def __len__(self) -> int:
        return len(self.features if self.chosen is None else self.chosen)

    @property
    def shape(self) -> torch.Size:
        """[n, D]."""
        return torch.Size((len(self), *self.features.shape[1:]))

    def select(self, numbers: Tensor) -> Rows:
        """The rows with the numbers int64 [k], any device, counted among these."""
        numbers = numbers.to(self.features.device)
        return replace(self, chosen=numbers if self.chosen is None else self.chosen[numbers])

    def chunks(self, size: int, device: torch.device) -> Iterator[Tensor]:
        """All rows in order, float64 [at most `size`, D] on `device`."""
        for start in range(0, len(self), size):
            if self.chosen is None:
                rows = self.features[start : start + size]
            else:
                rows = self.features.index_select(0, self.chosen[start : start + size])
            # Not `normalize` first: in half precision lengths are off by 5e-4.
            rows = rows.to(device).double()
            yield F.normalize(rows, dim=1) if self.unit else rows


def fit_logistic(
    features: Tensor | Rows,
    labels: Tensor,
    num_classes: int,
    penalty: float,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-4,
    chunk: int = CHUNK,
) -> Tensor:
    """The weights W of least objective, by L-BFGS on all samples.

    Computed in float64, `chunk` samples at a time: beside the features, memory is that of `chunk` x
    (C + D) numbers and some twenty copies of W.

    Args:
        features: [n, D], usually of length 1; any float type and device.
        labels: int64 [n], 0..C - 1, on the device that computes.
        num_classes: C; classes without a sample are allowed.
        penalty: weight of ||W||^2 / 2 against the mean loss, above 0; for the published values see
            `PUBLISHED_PENALTIES`.
        start: [C, D], such as the solution for another penalty; None for zeros.
        tolerance: stop when the largest entry of the gradient is this share of the one at W = 0.
        chunk: samples at a time.

    Returns:
        W, float64 [C, D] on the device of the labels; `features @ W.T` are the logits.

    Raises:
        ValueError: shapes, labels or a penalty that do not fit, or features that are not finite.
        MissingExtra: scipy is not installed.

    Warns:
        RuntimeWarning: the tolerance was not reached.
    """
    _check(features, labels, num_classes)
    if not penalty > 0:
        raise ValueError(
            f"the penalty must be above 0, not {penalty}: separable classes have no best weights "
            "without"
        )
    shape = (num_classes, features.shape[1])
    if start is not None and start.shape != shape:
        raise ValueError(
            f"start of shape {tuple(start.shape)} does not fit weights of shape {shape}"
        )
    optimize = _scipy_optimize()
    zeros = torch.zeros(shape, dtype=torch.float64, device=labels.device)
    # Not the gradient at `start`: near the solution that is small, and a warm start would be asked
    # for more.
    scale = objective(zeros, features, labels, penalty, chunk)[1].abs().max().item()
    if not np.isfinite(scale):
        raise ValueError("features hold values that are not finite")

    def value_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, gradient = objective(
            zeros.new_tensor(flat).view(shape), features, labels, penalty, chunk
        )
        return value.item(), gradient.flatten().cpu().numpy()

    result = optimize.minimize(
        value_and_gradient,
        (zeros if start is None else start.detach().double()).flatten().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        # The gradient alone decides: on separable classes the objective is flat long before the
        # weights are right.
        options={
            "gtol": tolerance * scale,
            "ftol": 0.0,
            "maxiter": MAX_ITERATIONS,
            "maxfun": 2 * MAX_ITERATIONS,
        },
    )
    reached = float(np.abs(result.jac).max())
    if reached > tolerance * scale:
        warnings.warn(
            f"logistic regression stopped after {result.nit} steps at a relative gradient of "
            f"{reached / scale:.1e}, "
            f"above {tolerance:.1e}; a stronger penalty or a looser tolerance is needed",
            RuntimeWarning,
            stacklevel=2,
        )
    return zeros.new_tensor(result.x).view(shape)


@torch.no_grad()
def objective(
    weight: Tensor, features: Tensor | Rows, labels: Tensor, penalty: float, chunk: int
) -> tuple[Tensor, Tensor]:
    """(1/n) sum of cross-entropies (nats) + (penalty / 2) ||W||^2, and its gradient.

    Args:
        weight: W, float64 [C, D].
        features: [n, D].
        labels: int64 [n], on the device of W.
        penalty: of the objective.
        chunk: samples that are held in float64 at a time.

    Returns:
        Scalar and [C, D], float64.
    """
    loss, gradient = weight.new_zeros(()), torch.zeros_like(weight)
    chunks = _rows(features).chunks(chunk, labels.device)
    for rows, truth in zip(chunks, labels[:, None].split(chunk), strict=True):
        logits = rows @ weight.T
        normaliser = logits.logsumexp(dim=1, keepdim=True)
        loss += (normaliser - logits.gather(1, truth)).sum()
        # In place, as [chunk, C] is the largest tensor here: from now on softmax minus one-hot.
        residual = logits.sub_(normaliser).exp_()
        residual.scatter_add_(1, truth, residual.new_full(truth.shape, -1.0))
        gradient.addmm_(residual.T, rows)
    num_samples = len(features)
    return (
        loss / num_samples + penalty / 2 * weight.square().sum(),
        gradient / num_samples + penalty * weight,
    )


def fit_path(
    features: Tensor | Rows,
    labels: Tensor,
    num_classes: int,
    penalties: Sequence[float],
    *,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> dict[float, Tensor]:
    """`fit_logistic` for several penalties, from strong to weak, each started at the one before.

    Args:
        features: [n, D].
        labels: int64 [n], on the device that computes.
        num_classes: C.
        penalties: in any order; equal ones are fitted once.
        tolerance: of `fit_logistic`.
        progress: told of the fits.

    Returns:
        float64 [C, D] by penalty, falling.

    Raises:
        ValueError: as `fit_logistic`.
        MissingExtra: scipy is not installed.
    """
    weight, path, ordered = None, {}, _strong_to_weak(penalties)
    if progress is not None:
        progress(0, len(ordered))
    for penalty in ordered:
        weight = fit_logistic(
            features, labels, num_classes, penalty, start=weight, tolerance=tolerance
        )
        path[penalty] = weight
        if progress is not None:
            progress(len(path), len(ordered))
    return path


def choose_penalty(
    features: Tensor | Rows,
    labels: Tensor,
    penalties: Sequence[float],
    folds: int = 5,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> tuple[float, dict[float, float]]:
    """The penalty of best accuracy in stratified cross-validation of the training set.

    A penalty is meant for all n samples. A fold trains on fewer and keeps the penalty against the
    *sum* of losses (penalty * n, the inverse of scikit-learn's C), since that is what the published
    values fix.

    Args:
        features: [n, D].
        labels: int64 [n], 0..C - 1, on the device that computes.
        penalties: the candidates, in any order.
        folds: number of parts, see `stratified_folds`.
        seed: of the assignment to folds.
        progress: told of the fits, one for each penalty in each fold.

    Returns:
        The best penalty, the strongest of equally good ones; and by penalty, falling, the accuracy
        in per cent over all samples that were held out once.

    Raises:
        ValueError: no penalties, no class with two samples, fewer than two folds, or as
            `fit_logistic`.
        MissingExtra: scipy is not installed.
    """
    ordered = _strong_to_weak(penalties)
    if not ordered:
        raise ValueError("no penalties to choose from")
    rows, num_classes = _rows(features), int(labels.max()) + 1 if len(labels) else 0
    _check(features, labels, num_classes)
    fold = stratified_folds(labels, folds, seed).to(labels.device)
    hits, last = dict.fromkeys(ordered, 0), int(fold.max())
    for held_out in range(last + 1):
        train, test = (mask.nonzero().squeeze(1) for mask in (fold != held_out, fold == held_out))
        growth = len(fold) / len(train)
        grown = [penalty * growth for penalty in ordered]
        part = part_of(progress, held_out * len(ordered), (last - held_out) * len(ordered))
        path = fit_path(rows.select(train), labels[train], num_classes, grown, progress=part)
        chunks = rows.select(test).chunks(CHUNK, labels.device)
        for some, truth in zip(chunks, labels[test].split(CHUNK), strict=True):
            for penalty, weight in zip(ordered, path.values(), strict=True):
                hits[penalty] += int(((some @ weight.T).argmax(dim=1) == truth).sum())
    scores = {penalty: 100 * count / int((fold >= 0).sum()) for penalty, count in hits.items()}
    return max(ordered, key=scores.__getitem__), scores


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Assign samples to folds; each holds its share of every class, give or take one sample.

    There are as many folds as samples in the smallest class if that is fewer. Classes of one sample
    do not count for this: they have nothing to hold out and stay in every training part.

    Args:
        labels: int64 [n].
        folds: the number wanted, at least 2.
        seed: of the assignment.

    Returns:
        int64 [n] on the CPU: the fold in which a sample is held out, -1 for never.

    Raises:
        ValueError: fewer than two folds, or no class with two samples.
    """
    labels = labels.cpu()
    count, num_folds = torch.bincount(labels), count_folds(labels, folds)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    order = order[count[labels[order]] > 1]
    fold = torch.full_like(labels, -1)
    # Dealt out class after class without starting anew, so that the folds themselves differ by one
    # sample at most.
    fold[order] = torch.arange(len(order)) % num_folds
    return fold


def count_folds(labels: Tensor, folds: int) -> int:
    """How many folds `stratified_folds` makes where `folds` are wanted. Raises as it does."""
    count = torch.bincount(labels)
    if folds < 2 or not (count > 1).any():
        raise ValueError(
            f"cross-validation needs two folds and a class of two samples; got {folds} folds"
        )
    return min(folds, int(count[count > 1].min()))


def part_of(progress: Progress | None, before: int, after: int) -> Progress | None:
    """Counts some fits among others: so many `before` them, so many `after`."""
    if progress is None:
        return None
    return lambda done, total: progress(before + done, before + total + after)


def _strong_to_weak(penalties: Sequence[float]) -> list[float]:
    return sorted(set(penalties), reverse=True)


def _rows(features: Tensor | Rows) -> Rows:
    return features if isinstance(features, Rows) else Rows(features)


def _check(features: Tensor | Rows, labels: Tensor, num_classes: int) -> None:
    if len(features.shape) != 2 or labels.shape != features.shape[:1] or not len(features):
        raise ValueError(
            f"features of shape {tuple(features.shape)} do not fit labels of shape "
            f"{tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"labels between {int(labels.min())} and {int(labels.max())}, but there are "
            f"{num_classes} classes"
        )


def _scipy_optimize() -> ModuleType:
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError:
        raise MissingExtra("scipy", "eval") from None
