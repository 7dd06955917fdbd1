"""Logistic regression on frozen features (spec_evaluation 8.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, unreadable
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
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
from ibot.types import ResultRecord

FITS = "logistic fits"
"""Name of the progress counter: of folds x penalties and the last fit, or in published mode of
the penalties."""


def run(context: LabelledContext, settings: LogisticSettings) -> list[ResultRecord]:
    """One record: the penalty is chosen by cross-validation, or in published mode on the split that
    is reported.
    """
    if not settings.penalties or min(settings.penalties) <= 0 or settings.folds < 2:
        raise ConfigError(
            "penalties of the logistic regression must be positive, and folds at least 2",
            fix="for example penalties=0.01,0.1,1 folds=5",
        )
    train = context.features(context.train, "train")[CLASS_TOKEN]
    val = context.features(context.val, "val")[CLASS_TOKEN]
    return [probe(context, settings, train, val)]


def probe(
    context: LabelledContext,
    settings: LogisticSettings,
    train: LabelledFeatures,
    val: LabelledFeatures,
) -> ResultRecord:
    """Fit on `train` and score on `val`; features are brought to length 1, as the paper does."""
    features, queries = unit_rows(context, train), unit_rows(context, val)
    labels, truth = train.labels.to(context.device), val.labels.to(context.device)
    by_strength = {value / len(features): value for value in settings.penalties}
    if context.mode == "published":
        weights = fit_path(
            features, labels, context.num_classes, list(by_strength), progress=context.counter(FITS)
        )
        scores = {p: _top1(_logits(queries, weight), truth) for p, weight in weights.items()}
        chosen = max(scores, key=lambda penalty: scores[penalty])
        weight = weights[chosen]
    else:
        weight, chosen, scores = _by_cross_validation(
            context, features, labels, list(by_strength), settings.folds
        )
    name = f"lambda {by_strength[chosen]:g}/n"
    return context.top(
        "logistic",
        _logits(queries, weight),
        truth,
        {**plain(settings), "feature": str(CLASS_TOKEN)},
        num_train=len(features),
        row=name,
        chosen=name,
        chosen_on=_chosen_on(context, scores),
        penalties={f"{by_strength[penalty]:g}": score for penalty, score in scores.items()},
        notes=unreadable(train, val),
    )


def unit_rows(context: LabelledContext, features: LabelledFeatures) -> Rows:
    """Rows of length 1. A GPU holds the features; a CPU reads them where they lie, in the file of
    the cache.
    """
    return Rows(features.rows.to(context.device), unit=True)


def _by_cross_validation(
    context: LabelledContext, features: Rows, labels: Tensor, penalties: list[float], folds: int
) -> tuple[Tensor, float, dict[float, float]]:
    """The weights [C, D] of the best penalty, that penalty, and the scores of all.

    It is the middle one, and there are no scores, where no class has two images to part.
    """
    progress, fits, scores = context.counter(FITS), 0, {}
    if torch.bincount(labels).max() < 2:
        chosen = sorted(penalties)[len(penalties) // 2]
    else:
        fits = count_folds(labels, folds) * len(penalties)
        chosen, scores = choose_penalty(
            features, labels, penalties, folds, context.seed, progress=part_of(progress, 0, 1)
        )
    path = fit_path(
        features, labels, context.num_classes, [chosen], progress=part_of(progress, fits, 0)
    )
    return path[chosen], chosen, scores


def _chosen_on(context: LabelledContext, scores: dict[float, float]) -> str:
    if context.mode == "published":
        return "val"
    return (
        "cross-validation of the training images" if scores else "nothing: no class has two images"
    )


def _logits(features: Rows, weight: Tensor) -> Tensor:
    """float32 [n, C] on the device of `weight` [C, D]."""
    return torch.cat([(rows @ weight.T).float() for rows in features.chunks(CHUNK, weight.device)])


def _top1(logits: Tensor, labels: Tensor) -> float:
    return 100 * topk_hits(logits, labels, 1).double().mean().item()
