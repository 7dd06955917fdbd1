"""Training of linear sweeps (spec_evaluation 8.2): steps of features in, chosen classifiers out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.sets.images import LabelledImages
from ibot.data.sets.subsets import split_labelled
from ibot.errors import ConfigError, DataError
from ibot.eval.features.rows import LabelledFeatures
from ibot.eval.probes.linear_sweep import LinearSweep, cosine_factor
from ibot.eval.state_file import StateFile

SCORES = 2**24
"""Scores of all rates that exist at a time when they are judged."""
FEW_HELD_OUT = 50
"""Held-out images below which the choice of a rate is mostly chance."""
HELD_OUT = "held-out training images"

K = TypeVar("K")
"""What tells the sweeps that are trained together apart: features, or numbers of patches."""


class SweepStep(NamedTuple):
    """This process's part of a step."""

    features: Mapping[Any, Tensor]
    """[b, d] by key."""
    labels: Tensor
    """int64 [b]."""
    total: int
    """Rows of the step over all processes."""


Steps = Callable[[int], Iterator[SweepStep]]
"""The steps of an epoch."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best classifier of a sweep so far."""

    score: float
    """Share of the judge's rows that it gets right."""
    epoch: int
    rate: int
    """Its place among the rates."""
    weight: Tensor
    """[C, d]."""
    bias: Tensor
    """[C]."""


class Trained(NamedTuple):
    """What a sweep leaves."""

    best: Best
    last_scores: list[float]
    """Share that is right of each rate, after the last epoch."""


def check_sweep(rates: tuple[float, ...], epochs: int, batch: int, holdout: float) -> None:
    """Raise ConfigError for settings with which nothing can be trained or chosen."""
    if not rates or min(rates) <= 0 or epochs < 1 or batch < 1 or not 0 < holdout < 1:
        raise ConfigError(
            "rates, epochs, batch and holdout of the sweep must be positive, holdout below 1",
            fix="for example rates=0.01,0.1 epochs=100 batch=1024 holdout=0.05",
        )


def split(
    train: LabelledImages, holdout: float, mode: str, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Numbers of the images to fit on, of those to choose on, and what those are, in words."""
    every = np.arange(len(train))
    if mode == "published":
        return every, every[:0], "val, over epochs and rates"
    if np.bincount(train.labels).max() < 2:  # nothing can be spared
        return every, every, "the fitted images: no class has two"
    fit, held = split_labelled(train, holdout, seed)
    return fit.indices, held.indices, HELD_OUT


def few_held_out(judge: LabelledFeatures, chosen_on: str) -> list[str]:
    """A note where a handful of held-out images chooses the rate, or none.

    chosen_on: as `split` says it.
    """
    if chosen_on != HELD_OUT or len(judge.rows) >= FEW_HELD_OUT:
        return []
    return [
        f"the rate was chosen on only {len(judge.rows)} held-out images; logistic uses "
        "cross-validation"
    ]


def train_sweeps(
    sweeps: Mapping[K, LinearSweep],
    steps: Steps,
    judge: Mapping[K, LabelledFeatures],
    *,
    epochs: int,
    over_epochs: bool,
    state: StateFile,
    progress: Callable[[int, int], None] | None = None,
) -> dict[K, Trained]:
    """Train sweeps on the same steps, from the state of an interrupted run if there is one.

    Args:
        sweeps: new; trained in place.
        steps: of each epoch.
        judge: features by which the rates are compared.
        epochs: passes over the steps.
        over_epochs: keep the best of all epochs and rates, else the best rate of the last epoch.
        state: for interrupted runs; gone at the end.
        progress: called with epochs done and in all.

    Raises:
        DataError: `judge` has no rows.
    """
    if not all(len(rows.rows) for rows in judge.values()):
        raise DataError(
            "none of the held-out images can be read", fix="a larger holdout, or repair the images"
        )
    start, best = _resume(state, sweeps)
    if start and progress is not None:
        print(f"the probe goes on after epoch {start}", file=sys.stderr)
    for epoch in range(start, epochs):
        factor = cosine_factor(epoch, epochs)
        for found, labels, total in steps(epoch):
            for key, sweep in sweeps.items():
                sweep.step(found[key], labels, factor, total)
        if over_epochs or epoch == epochs - 1:
            for key, sweep in sweeps.items():
                best[key] = _better(best.get(key), sweep, scores(sweep, judge[key]), epoch)
        if epoch == start or state.due:
            _save(state, sweeps, best, epoch + 1)
        if progress is not None:
            progress(epoch + 1, epochs)
    state.remove()
    return {
        key: Trained(best[key], scores(sweep, judge[key]).tolist()) for key, sweep in sweeps.items()
    }


def choice(rates: tuple[float, ...], trained: Trained, chosen_on: str) -> dict[str, Any]:
    """What a record says of the chosen rate and of the others after the last epoch."""
    best, last = trained
    return {
        "chosen": f"rate {rates[best.rate]:g}, epoch {best.epoch + 1}",
        "chosen_rate": rates[best.rate],
        "chosen_epoch": best.epoch + 1,
        "chosen_on": chosen_on,
        "rates": {f"{rate:g}": 100 * score for rate, score in zip(rates, last, strict=True)},
    }


def scores(sweep: LinearSweep, features: LabelledFeatures) -> Tensor:
    """Share of the rows that each classifier gets right: float64 [R], on the CPU."""
    return hits(sweep, features).double().mean(dim=1)


def hits(sweep: LinearSweep, features: LabelledFeatures) -> Tensor:
    """Whether each classifier is right on each row: bool [R, n], on the CPU."""
    device, parts, chunk = sweep.bias.device, [], max(1, SCORES // sweep.bias.numel())
    for start in range(0, len(features.rows), chunk):
        rows = slice(start, start + chunk)
        predicted = sweep.logits(features.rows[rows].to(device)).argmax(dim=-1)
        parts.append((predicted == features.labels[rows].to(device)).cpu())
    return torch.cat(parts, dim=1)


def _better(best: Best | None, sweep: LinearSweep, shares: Tensor, epoch: int) -> Best:
    """The best rate of this epoch, unless an earlier one was as good."""
    rate = int(shares.argmax())
    if best is not None and shares[rate] <= best.score:
        return best
    weight, bias = sweep.weight[rate].clone(), sweep.bias[rate].clone()
    return Best(shares[rate].item(), epoch, rate, weight, bias)


def _save(
    state: StateFile, sweeps: Mapping[K, LinearSweep], best: Mapping[K, Best], epochs: int
) -> None:
    state.write(
        lambda: {
            "epoch": epochs,
            "sweeps": {str(key): sweep.state() for key, sweep in sweeps.items()},
            "best": {
                str(key): [b.score, b.epoch, b.rate, b.weight.cpu(), b.bias.cpu()]
                for key, b in best.items()
            },
        }
    )


def _resume(state: StateFile, sweeps: Mapping[K, LinearSweep]) -> tuple[int, dict[K, Best]]:
    """Load a saved state: the number of epochs done, and the best so far."""
    stored = state.read(progress=lambda stored: stored["epoch"])
    if stored is None:
        return 0, {}
    best = {}
    for key, sweep in sweeps.items():
        sweep.load(stored["sweeps"][str(key)])
        if str(key) in stored["best"]:
            score, epoch, rate, weight, bias = stored["best"][str(key)]
            device = sweep.weight.device
            best[key] = Best(score, epoch, rate, weight.to(device), bias.to(device))
    return stored["epoch"], best
