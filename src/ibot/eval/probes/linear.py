"""Linear probing (paper section 4.1; spec_evaluation 8.2)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.subsets import LabelledSubset, split_labelled
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, places_of, rows_of, unreadable
from ibot.eval.features.tokens import Feature, compute, probe_feature
from ibot.eval.features.views import in_batches
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.probes.crops import crop_batches
from ibot.eval.probes.linear_sweep import LinearSweep, Optimizer, cosine_factor
from ibot.eval.probes.settings import LinearSettings
from ibot.rng import permutation
from ibot.system.distributed import barrier, check_equal
from ibot.system.files import read_state, write_atomically
from ibot.types import ResultRecord

SCORES = 2**24
"""Scores of all rates that exist at a time when they are judged."""
SAVE_SECONDS = 30
"""Between two states on disk; the first epoch is always saved."""
FEW_HELD_OUT = 50
"""Held-out images below which the choice of a rate is mostly chance."""
HELD_OUT = "held-out training images"

K = TypeVar("K")
"""What tells the sweeps that are trained together apart: features, or numbers of patches."""
Steps = Callable[[int], Iterator[tuple[Mapping[Any, Tensor], Tensor, int]]]
"""Epoch -> features [b, d] by key and labels int64 [b] of this process's part of each step, and the
rows of the step over all processes."""


@dataclass(slots=True)
class Best:
    """The best classifier of a sweep so far."""

    score: float
    epoch: int
    rate: int
    """Its place among the rates."""
    weight: Tensor
    bias: Tensor


def run(context: LabelledContext, settings: LinearSettings) -> list[ResultRecord]:
    """One record per feature; writes the chosen classifier of each beside the results.

    In clean mode the rate is chosen on held-out training images after the last epoch; in published
    mode rate and epoch are the best on the split that is reported.

    Raises:
        ConfigError: settings that fit neither network nor data.
        DataError: no held-out image can be read.
    """
    return probe(context, settings, keep_classifiers=True)


def probe(
    context: LabelledContext, settings: LinearSettings, *, keep_classifiers: bool
) -> list[ResultRecord]:
    """As `run`."""
    features = _features(context, settings)
    check_sweep(settings.rates, settings.epochs, settings.batch, settings.holdout)
    fit, held, chosen_on = split(context, settings.holdout)
    batch = min(settings.batch, len(fit))
    val = context.features(context.val, "val", features)
    given = (
        context.features(context.train, "train", features) if settings.augment == "none" else None
    )
    if context.mode == "published":
        judge = val
    elif given is not None:
        judge = {feature: rows_of(rows, held) for feature, rows in given.items()}
    else:
        judge = context.features(LabelledSubset(context.train, held), "held-out", features)
    sweeps = {
        feature: LinearSweep(
            rows.rows.shape[1],
            context.num_classes,
            [rate * batch / 256 for rate in settings.rates],
            seed=context.seed,
            optimizer=Optimizer(settings.optimizer, settings.weight_decay),
            device=context.device,
        )
        for feature, rows in val.items()
    }

    def steps(epoch: int) -> Iterator[tuple[Mapping[Feature, Tensor], Tensor, int]]:
        return _epoch(context, features, fit, given, batch, epoch)

    identity = context.identity("linear", plain(settings))
    best = train_sweeps(context, sweeps, steps, judge, settings.epochs, identity)
    records = []
    for feature in features:
        classifier = _classifier(context, settings, feature, best[feature])
        extra, notes = {}, unreadable(val[feature], *([] if given is None else [given[feature]]))
        notes += few_held_out(judge[feature], chosen_on)
        if keep_classifiers:
            file = context.out / f"linear-{feature}-{identity}.safetensors"
            if context.processes.is_main:
                classifier.save(file)
            extra["classifier"] = str(file)
            notes.append(f"the classifier is in {file}")
        with torch.no_grad():
            logits = torch.cat(
                [classifier.head(rows.to(context.device)) for rows in val[feature].rows.split(4096)]
            )
        row = str(feature) if settings.augment == "crop" else f"{feature} of plain images"
        used = {**plain(settings), "features": str(feature), "batch": batch}
        records.append(
            context.top(
                "linear",
                logits.cpu(),
                val[feature].labels,
                used,
                num_train=len(fit),
                row=row,
                notes=notes,
                **extra,
                **choice(
                    context,
                    settings.rates,
                    best[feature],
                    sweeps[feature],
                    judge[feature],
                    chosen_on,
                ),
            )
        )
    return records


def check_sweep(rates: tuple[float, ...], epochs: int, batch: int, holdout: float) -> None:
    """Raise ConfigError for settings with which nothing can be trained or chosen."""
    if not rates or min(rates) <= 0 or epochs < 1 or batch < 1 or not 0 < holdout < 1:
        raise ConfigError(
            "rates, epochs, batch and holdout of the sweep must be positive, holdout below 1",
            fix="for example rates=0.01,0.1 epochs=100 batch=1024 holdout=0.05",
        )


def split(
    context: LabelledContext, holdout: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Numbers of the training images to fit on, of those to choose on, and what those are, in
    words.
    """
    every = np.arange(len(context.train))
    if context.mode == "published":
        return every, every[:0], "val, over epochs and rates"
    if np.bincount(context.train.labels).max() < 2:  # nothing can be spared
        return every, every, "the fitted images: no class has two"
    fit, held = split_labelled(context.train, holdout, context.seed)
    return fit.indices, held.indices, HELD_OUT


def few_held_out(judge: LabelledFeatures, chosen_on: str) -> list[str]:
    """A note where a handful of held-out images chooses the rate, or none; `chosen_on` as `split`
    gives it.
    """
    if chosen_on != HELD_OUT or len(judge.rows) >= FEW_HELD_OUT:
        return []
    return [
        f"the rate was chosen on only {len(judge.rows)} held-out images; logistic uses "
        "cross-validation"
    ]


def choice(
    context: LabelledContext,
    rates: tuple[float, ...],
    best: Best,
    sweep: LinearSweep,
    judge: LabelledFeatures,
    chosen_on: str,
) -> dict[str, Any]:
    """What a record says of the chosen rate and the others; `sweep` as the last epoch left it."""
    last = hits(sweep, judge, context.device).double().mean(dim=1).tolist()
    return {
        "chosen": f"rate {rates[best.rate]:g}, epoch {best.epoch + 1}",
        "chosen_rate": rates[best.rate],
        "chosen_epoch": best.epoch + 1,
        "chosen_on": chosen_on,
        "rates": {f"{rate:g}": 100 * score for rate, score in zip(rates, last, strict=True)},
    }


def _features(context: LabelledContext, settings: LinearSettings) -> list[Feature]:
    backbone, chosen = context.loaded.backbone, []
    for text in settings.features:
        try:
            feature = probe_feature(backbone) if text == "auto" else Feature.parse(text)
        except ValueError as error:
            raise ConfigError(
                f"features={text} is unknown", why=str(error), fix="for example features=n4m0"
            ) from None
        if feature.blocks > backbone.num_blocks:
            raise ConfigError(
                f"features={feature} asks for more than the {backbone.num_blocks} blocks of the "
                "network"
            )
        chosen.append(feature)
    if not chosen:
        raise ConfigError("features= names none", fix="for example features=n4m0, or auto")
    return list(dict.fromkeys(chosen))


def train_sweeps(
    context: LabelledContext,
    sweeps: Mapping[K, LinearSweep],
    steps: Steps,
    judge: Mapping[K, LabelledFeatures],
    epochs: int,
    identity: str,
) -> dict[K, Best]:
    """Train sweeps on the same steps, from the state of an interrupted run if there is one.

    In published mode the best of all epochs and rates is kept, else the best rate of the last
    epoch.
    Raises DataError when `judge` has no rows.
    """
    if not all(len(rows.rows) for rows in judge.values()):
        raise DataError(
            "none of the held-out images can be read", fix="a larger holdout, or repair the images"
        )
    state = context.out / f"sweep-{identity}.state"
    best: dict[K, Best] = {}
    saved, counter = time.monotonic(), context.counter("epochs")
    start = _resume(state, sweeps, best)
    check_equal({"the epoch to go on from": start})
    if start and counter is not None:
        print(f"the probe goes on after epoch {start}", file=sys.stderr)
    for epoch in range(start, epochs):
        factor = cosine_factor(epoch, epochs)
        for found, labels, total in steps(epoch):
            for key, sweep in sweeps.items():
                sweep.step(found[key], labels, factor, total)
        if context.mode == "published" or epoch == epochs - 1:
            for key, sweep in sweeps.items():
                _keep_best(best, key, sweep, judge[key], epoch, context.device)
        if context.processes.is_main and (
            epoch == start or time.monotonic() - saved > SAVE_SECONDS
        ):
            _save(state, sweeps, best, epoch + 1)
            saved = time.monotonic()
        if counter is not None:
            counter(epoch + 1, epochs)
    barrier()
    if context.processes.is_main:
        state.unlink(missing_ok=True)
    return best


def _epoch(
    context: LabelledContext,
    features: list[Feature],
    fit: NDArray[np.int64],
    given: dict[Feature, LabelledFeatures] | None,
    batch: int,
    epoch: int,
) -> Iterator[tuple[Mapping[Feature, Tensor], Tensor, int]]:
    """The steps of an epoch: given features, which lie in a file and are read as they are needed,
    or new crops'.
    """
    if given is None:
        yield from crop_steps(
            context,
            fit,
            batch,
            epoch,
            lambda images: compute(context.loaded.backbone, images, features),
        )
        return
    first = next(iter(given.values()))
    chosen = places_of(first, fit)
    for whole in in_batches(chosen[permutation(context.seed, epoch, len(chosen))], batch):
        rows = torch.from_numpy(whole[context.processes.rank :: context.processes.world_size])
        found = {feature: given[feature].rows[rows].to(context.device) for feature in features}
        yield found, first.labels[rows].to(context.device), len(whole)


def crop_steps(
    context: LabelledContext,
    fit: NDArray[np.int64],
    batch: int,
    epoch: int,
    score: Callable[[Tensor], Mapping[K, Tensor]],
) -> Iterator[tuple[Mapping[K, Tensor], Tensor, int]]:
    """Steps over random crops of the images `fit`; `score` maps normalised images [b, 3, h, w] to
    rows by key.
    """
    rank, world = context.processes.rank, context.processes.world_size
    steps = in_batches(fit[permutation(context.seed, epoch, len(fit))], batch)
    labels = torch.from_numpy(np.asarray(context.train.labels, np.int64))
    mine = [step[rank::world] for step in steps]
    crops = crop_batches(
        context.train, context.view.size, mine, context.seed, epoch, context.workers
    )
    statistics = context.loaded.backbone.statistics
    for part, step in zip(crops, steps, strict=True):
        with torch.no_grad():
            pieces = [
                score(normalize(piece.to(context.device), statistics))
                for piece in part.views.split(context.batch)
            ]
        found = {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}
        yield found, labels[torch.from_numpy(part.positions)].to(context.device), len(step)


def _keep_best(
    best: dict[K, Best],
    key: K,
    sweep: LinearSweep,
    judge: LabelledFeatures,
    epoch: int,
    device: torch.device,
) -> None:
    scores = hits(sweep, judge, device).double().mean(dim=1)
    rate = int(scores.argmax())
    if key not in best or scores[rate] > best[key].score:
        best[key] = Best(
            scores[rate].item(), epoch, rate, sweep.weight[rate].clone(), sweep.bias[rate].clone()
        )


def hits(sweep: LinearSweep, features: LabelledFeatures, device: torch.device) -> Tensor:
    """Whether each classifier is right on each row: bool [R, n], on the CPU."""
    parts, chunk = [], max(1, SCORES // sweep.bias.numel())
    for start in range(0, len(features.rows), chunk):
        rows = slice(start, start + chunk)
        predicted = sweep.logits(features.rows[rows].to(device)).argmax(dim=-1)
        parts.append((predicted == features.labels[rows].to(device)).cpu())
    return torch.cat(parts, dim=1)


def _classifier(
    context: LabelledContext, settings: LinearSettings, feature: Feature, best: Best
) -> LinearClassifier:
    rate = settings.rates[best.rate]
    return LinearClassifier(
        backbone=context.loaded.backbone,
        config=replace(context.loaded.config, pos_size=context.loaded.built_for),
        weight=best.weight,
        bias=best.bias,
        feature=feature,
        unit=False,
        view=context.view,
        classes=context.train.classes,
        about={
            "protocol": "linear",
            "rate": rate,
            "epoch": best.epoch + 1,
            "epochs": settings.epochs,
        },
    )


def _save(file: Path, sweeps: Mapping[K, LinearSweep], best: dict[K, Best], epoch: int) -> None:
    content: dict[str, Any] = {
        "epoch": epoch,
        "sweeps": {str(key): sweep.state() for key, sweep in sweeps.items()},
        "best": {
            str(key): [b.score, b.epoch, b.rate, b.weight.cpu(), b.bias.cpu()]
            for key, b in best.items()
        },
    }
    write_atomically(file, lambda path: torch.save(content, path))


def _resume(file: Path, sweeps: Mapping[K, LinearSweep], best: dict[K, Best]) -> int:
    """Load a saved state; returns the number of epochs done."""
    if not file.is_file():
        return 0
    content = read_state(file)
    for key, sweep in sweeps.items():
        sweep.load(content["sweeps"][str(key)])
        if str(key) in content["best"]:
            score, epoch, rate, weight, bias = content["best"][str(key)]
            best[key] = Best(
                score, epoch, rate, weight.to(sweep.weight.device), bias.to(sweep.bias.device)
            )
    return content["epoch"]
