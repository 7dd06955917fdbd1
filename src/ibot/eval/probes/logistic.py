"""Logistic regression on frozen features (spec_evaluation 8.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, unreadable
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier, use_note
from ibot.eval.probes.logistic_fit import (
    CHUNK,
    Rows,
    choose_penalty,
    count_folds,
    fit_path,
    part_of,
)
from ibot.eval.probes.settings import LogisticSettings
from ibot.eval.scores import topk_hits
from ibot.system.progress import Counter
from ibot.types import ResultRecord

FITS = "logistic fits"
"""Name of the progress counter: folds x penalties and the last fit, or penalties alone."""


def run(context: LabelledContext, settings: LogisticSettings) -> list[ResultRecord]:
    """One record: the penalty is chosen by cross-validation, or as published on the reported split.

    The classifier is written beside the results. Raises ConfigError for penalties or folds that
    make no sense.
    """
    if not settings.penalties or min(settings.penalties) <= 0 or settings.folds < 2:
        raise ConfigError(
            "penalties of the logistic regression must be positive, and folds at least 2",
            fix="for example penalties=0.01,0.1,1 folds=5",
        )
    train = context.features(context.train, "train")[CLASS_TOKEN]
    val = context.features(context.val, "val")[CLASS_TOKEN]
    file = context.out / f"logistic-{context.identity('logistic', plain(settings))}.safetensors"
    return [probe(context, settings, train, val, None if context.baseline else file)]


def probe(
    context: LabelledContext,
    settings: LogisticSettings,
    train: LabelledFeatures,
    val: LabelledFeatures,
    file: Path | None = None,
) -> ResultRecord:
    """Fit on `train` and score on `val`; features are brought to length 1, as the paper does.

    file: where the classifier is written, if it is to be kept.
    """
    # A GPU holds the features; a CPU reads them where they lie, in the file of the cache.
    rows, queries = (Rows(part.rows.to(context.device), unit=True) for part in (train, val))
    labels, truth = train.labels.to(context.device), val.labels.to(context.device)
    by_strength = {value / len(rows): value for value in settings.penalties}
    fits = Fits(rows, labels, context.num_classes, list(by_strength), context.counter(FITS))
    if context.mode == "published":
        found = best_on(fits, queries, truth)
    else:
        found = best_by_cross_validation(fits, settings.folds, context.seed)
    name = f"lambda {by_strength[found.penalty]:g}/n"
    notes, extra = unreadable(train, val), {}
    if file is not None:
        if context.processes.is_main:
            classifier_of(context, found.weight, chosen=name).save(file)
        extra["classifier"] = str(file)
        notes.append(use_note(file))
    return context.top(
        "logistic",
        _logits(queries, found.weight),
        truth,
        {**plain(settings), "feature": str(CLASS_TOKEN)},
        num_train=len(rows),
        row=name,
        chosen=name,
        chosen_on=found.chosen_on,
        penalties={f"{by_strength[penalty]:g}": score for penalty, score in found.scores.items()},
        notes=notes,
        **extra,
    )


def classifier_of(context: LabelledContext, weight: Tensor, **about: str) -> LinearClassifier:
    """The network with a fitted head `weight` [C, D], without intercept; `about`: how it was."""
    weight = weight.float()
    return LinearClassifier(
        backbone=context.loaded.backbone,
        config=replace(context.loaded.config, pos_size=context.loaded.built_for),
        weight=weight,
        bias=weight.new_zeros(len(weight)),
        feature=CLASS_TOKEN,
        unit=True,
        view=context.view,
        opening=context.opening,
        classes=context.train.classes,
        about={"protocol": "logistic", **about},
    )


@dataclass(frozen=True, slots=True)
class Fits:
    """What is fitted, and how strongly the weights may be held back."""

    rows: Rows
    """[n, D]."""
    labels: Tensor
    """int64 [n]."""
    num_classes: int
    penalties: list[float]
    progress: Counter


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best of several fits."""

    weight: Tensor
    """[C, D]."""
    penalty: float
    scores: dict[float, float]
    """Accuracy by penalty in per cent; empty where nothing was compared."""
    chosen_on: str


def best_on(fits: Fits, queries: Rows, truth: Tensor) -> Chosen:
    """The fit with the highest accuracy on the very images that are reported, as published."""
    weights = fit_path(
        fits.rows, fits.labels, fits.num_classes, fits.penalties, progress=fits.progress
    )
    scores = {
        penalty: 100 * topk_hits(_logits(queries, weight), truth, 1).double().mean().item()
        for penalty, weight in weights.items()
    }
    best = max(scores, key=lambda penalty: scores[penalty])
    return Chosen(weights[best], best, scores, "val")


def best_by_cross_validation(fits: Fits, folds: int, seed: int) -> Chosen:
    """The penalty that is best on held-out parts of the images, fitted on all of them.

    It is the middle one where no class has two images to part.
    """
    done, scores, on = 0, {}, "nothing: no class has two images"
    best = sorted(fits.penalties)[len(fits.penalties) // 2]
    if torch.bincount(fits.labels).max() >= 2:
        on = "cross-validation of the training images"
        done = count_folds(fits.labels, folds) * len(fits.penalties)
        progress = part_of(fits.progress, 0, 1)
        best, scores = choose_penalty(
            fits.rows, fits.labels, fits.penalties, folds, seed, progress=progress
        )
    progress = part_of(fits.progress, done, 0)
    path = fit_path(fits.rows, fits.labels, fits.num_classes, [best], progress=progress)
    return Chosen(path[best], best, scores, on)


def _logits(features: Rows, weight: Tensor) -> Tensor:
    """float32 [n, C] on the device of `weight` [C, D]."""
    return torch.cat([(rows @ weight.T).float() for rows in features.chunks(CHUNK, weight.device)])
