"""Linear probing (paper section 4.1; spec_evaluation 8.2)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.evaluation import LinearSettings
from ibot.data.labels import SubsetImages
from ibot.data.pixels import normalize
from ibot.data.subsets import split_labelled
from ibot.engine.distributed import barrier
from ibot.errors import ConfigError
from ibot.eval.cache import FeatureSet, places_of, rows_of
from ibot.eval.crops import crop_batches
from ibot.eval.features import Feature, compute, probe_feature
from ibot.eval.linear import LinearSweep, Optimizer, cosine_factor
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.protocol import Context, plain, unreadable
from ibot.eval.views import in_batches
from ibot.rng import permutation
from ibot.types import ResultRecord

CHUNK = 4096


@dataclass(slots=True)
class Best:
    """The best classifier of one feature so far."""

    score: float
    epoch: int
    rate: int
    """Its place among the rates."""
    weight: Tensor
    bias: Tensor


def run(context: Context, settings: LinearSettings) -> list[ResultRecord]:
    """One record per feature; writes the chosen classifier of each beside the results.

    In clean mode the rate is chosen on held-out training images after the last epoch; in published mode rate and epoch
    are the best on the split that is reported. Raises ConfigError for settings that fit neither network nor data.
    """
    features = _features(context, settings)
    if not settings.rates or settings.epochs < 1 or settings.batch < 1 or not 0 < settings.holdout < 1:
        raise ConfigError("rates, epochs, batch and holdout of the linear probe must be positive, holdout below 1")
    fit, held = _split(context, settings)
    batch = min(settings.batch, len(fit))
    val = context.features(context.val, "val", features)
    given = context.features(context.train, "train", features) if settings.augment == "none" else None
    if context.mode == "published":
        judge = val
    elif given is not None:
        judge = {feature: rows_of(rows, held) for feature, rows in given.items()}
    else:
        judge = context.features(SubsetImages(context.train, held), "held-out", features)
    sweeps = {
        feature: LinearSweep(
            rows.rows.shape[1], context.num_classes, [rate * batch / 256 for rate in settings.rates], seed=context.seed,
            optimizer=Optimizer(settings.optimizer, settings.weight_decay), device=context.device,
        )
        for feature, rows in val.items()
    }  # fmt: skip
    best = _train(context, settings, sweeps, fit, given, judge, batch)
    return [_report(context, settings, feature, best[feature], judge[feature], val[feature], sweeps[feature], batch)
            for feature in features]  # fmt: skip


def _features(context: Context, settings: LinearSettings) -> list[Feature]:
    backbone, chosen = context.loaded.backbone, []
    for text in settings.features:
        try:
            feature = probe_feature(backbone) if text == "auto" else Feature.parse(text)
        except ValueError as error:
            raise ConfigError(f"features={text} is unknown", why=str(error), fix="for example features=n4m0") from None
        if feature.blocks > backbone.num_blocks:
            raise ConfigError(f"features={feature} asks for more than the {backbone.num_blocks} blocks of the network")
        chosen.append(feature)
    return list(dict.fromkeys(chosen))


def _split(context: Context, settings: LinearSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the training images to fit on, and of those to choose on (none in published mode)."""
    every = np.arange(len(context.train))
    if context.mode == "published":
        return every, every[:0]
    if np.bincount(context.train.labels).max() < 2:  # nothing can be spared: the rate is chosen on what is fitted
        return every, every
    fit, held = split_labelled(context.train, settings.holdout, context.seed)
    return fit.indices, held.indices


def _train(
    context: Context,
    settings: LinearSettings,
    sweeps: dict[Feature, LinearSweep],
    fit: NDArray[np.int64],
    given: dict[Feature, FeatureSet] | None,
    judge: dict[Feature, FeatureSet],
    batch: int,
) -> dict[Feature, Best]:
    """All epochs, from the state of an interrupted run if there is one."""
    state = context.out / f"linear-{_identity(context, settings)}.state"
    best: dict[Feature, Best] = {}
    start = _resume(state, sweeps, best)
    counter = context.counter("epochs")
    for epoch in range(start, settings.epochs):
        factor = cosine_factor(epoch, settings.epochs)
        for found, labels, total in _epoch(context, sweeps, fit, given, batch, epoch):
            for feature, sweep in sweeps.items():
                sweep.step(found[feature], labels, factor, total)
        if context.mode == "published" or epoch == settings.epochs - 1:
            for feature, sweep in sweeps.items():
                _keep_best(best, feature, sweep, judge[feature], epoch, context.device)
        if context.processes.is_main:
            _save(state, sweeps, best, epoch + 1)
        if counter is not None:
            counter(epoch + 1, settings.epochs)
    barrier()
    if context.processes.is_main:
        state.unlink(missing_ok=True)
    return best


def _epoch(
    context: Context,
    sweeps: dict[Feature, LinearSweep],
    fit: NDArray[np.int64],
    given: dict[Feature, FeatureSet] | None,
    batch: int,
    epoch: int,
) -> Iterator[tuple[dict[Feature, Tensor], Tensor, int]]:
    """Features and labels of this process's part of each step, and the rows of the step over all processes."""
    rank, world = context.processes.rank, context.processes.world_size
    # Row numbers of the given features, which lie in a file and are read as they are needed; else image numbers.
    chosen = fit if given is None else places_of(next(iter(given.values())), fit)
    whole = in_batches(chosen[permutation(context.seed, epoch, len(chosen))], batch)
    steps = [part[rank::world] for part in whole]
    if given is not None:
        labels = next(iter(given.values())).labels
        for part, all_of_it in zip(steps, whole, strict=True):
            rows = torch.from_numpy(part)
            found = {feature: given[feature].rows[rows].to(context.device) for feature in sweeps}
            yield found, labels[rows].to(context.device), len(all_of_it)
        return
    labels = torch.from_numpy(np.asarray(context.train.labels, np.int64))
    crops = crop_batches(context.train, context.view.size, steps, context.seed, epoch, context.workers)
    for part, all_of_it in zip(crops, whole, strict=True):
        found = _augmented(context, part.views, list(sweeps))
        yield found, labels[torch.from_numpy(part.positions)].to(context.device), len(all_of_it)


def _augmented(context: Context, views: Tensor, features: list[Feature]) -> dict[Feature, Tensor]:
    """Features of crops uint8 [b, 3, h, w], in passes of the context's batch."""
    parts = []
    with torch.no_grad():
        for piece in views.split(context.batch):
            parts.append(compute(context.loaded.backbone, normalize(piece.to(context.device)), features))
    return {feature: torch.cat([part[feature] for part in parts]) for feature in features}


def _keep_best(
    best: dict[Feature, Best], feature: Feature, sweep: LinearSweep, judge: FeatureSet, epoch: int, device: torch.device
) -> None:
    scores = hits(sweep, judge, device).double().mean(dim=1)
    rate = int(scores.argmax())
    if feature not in best or scores[rate] > best[feature].score:
        best[feature] = Best(scores[rate].item(), epoch, rate, sweep.weight[rate].clone(), sweep.bias[rate].clone())


def hits(sweep: LinearSweep, features: FeatureSet, device: torch.device) -> Tensor:
    """Whether each classifier is right on each row: bool [R, n]."""
    parts = []
    for start in range(0, len(features.rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        predicted = sweep.logits(features.rows[chunk].to(device)).argmax(dim=-1)
        parts.append(predicted == features.labels[chunk].to(device))
    return torch.cat(parts, dim=1)


def _report(
    context: Context,
    settings: LinearSettings,
    feature: Feature,
    best: Best,
    judge: FeatureSet,
    val: FeatureSet,
    sweep: LinearSweep,
    batch: int,
) -> ResultRecord:
    last = hits(sweep, judge, context.device).double().mean(dim=1)
    chosen = settings.rates[best.rate]
    classifier = LinearClassifier(
        context.loaded.backbone, replace(context.loaded.config, pos_size=context.loaded.built_for), best.weight,
        best.bias, feature, False, context.view, context.train.classes,
        {"protocol": "linear", "rate": chosen, "epoch": best.epoch + 1, "epochs": settings.epochs},
    )  # fmt: skip
    file = context.out / f"linear-{feature}.safetensors"
    if context.processes.is_main:
        classifier.save(file)
    with torch.no_grad():
        logits = torch.cat([classifier.head(rows.to(context.device)) for rows in val.rows.split(CHUNK)])
    return context.top(
        "linear", logits, val.labels.to(context.device), {**plain(settings), "features": str(feature), "batch": batch},
        row=str(feature), chosen=f"rate {chosen:g}, epoch {best.epoch + 1}", chosen_rate=chosen,
        chosen_epoch=best.epoch + 1,
        chosen_on="val, over epochs and rates" if context.mode == "published" else "held-out training images",
        rates={f"{rate:g}": 100 * score for rate, score in zip(settings.rates, last.tolist(), strict=True)},
        classifier=str(file), notes=unreadable(val),
    )  # fmt: skip


def _identity(context: Context, settings: LinearSettings) -> str:
    """What a saved state belongs to."""
    about = [
        plain(settings), context.weights_hash, context.train.fingerprint(), context.val.fingerprint(), context.mode,
        context.seed, str(context.view), context.batch,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _save(file: Path, sweeps: dict[Feature, LinearSweep], best: dict[Feature, Best], epoch: int) -> None:
    content: dict[str, Any] = {
        "epoch": epoch,
        "sweeps": {str(feature): sweep.state() for feature, sweep in sweeps.items()},
        "best": {str(f): [b.score, b.epoch, b.rate, b.weight.cpu(), b.bias.cpu()] for f, b in best.items()},
    }
    temporary = file.with_name(f".{file.name}.tmp")
    torch.save(content, temporary)
    temporary.replace(file)


def _resume(file: Path, sweeps: dict[Feature, LinearSweep], best: dict[Feature, Best]) -> int:
    """Load a saved state; returns the number of epochs done."""
    if not file.is_file():
        return 0
    content = torch.load(file, weights_only=True)
    for feature, sweep in sweeps.items():
        sweep.load(content["sweeps"][str(feature)])
        if str(feature) in content["best"]:
            score, epoch, rate, weight, bias = content["best"][str(feature)]
            best[feature] = Best(score, epoch, rate, weight.to(sweep.weight.device), bias.to(sweep.bias.device))
    return content["epoch"]
