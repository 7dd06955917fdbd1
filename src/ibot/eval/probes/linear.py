"""Linear probing (paper section 4.1; spec_evaluation 8.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ibot.data.sets.subsets import LabelledSubset
from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, rows_of, unreadable
from ibot.eval.features.tokens import Feature, compute, probe_feature
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier, use_note
from ibot.eval.probes.linear_sweep import LinearSweep, Optimizer
from ibot.eval.probes.settings import LinearSettings
from ibot.eval.probes.sweep_steps import crop_steps, row_steps
from ibot.eval.probes.sweep_training import (
    Best,
    Steps,
    Trained,
    check_sweep,
    choice,
    few_held_out,
    split,
    train_sweeps,
)
from ibot.eval.state_file import StateFile
from ibot.models.contract import Backbone
from ibot.types import ResultRecord

ByFeature = dict[Feature, LabelledFeatures]


def run(context: LabelledContext, settings: LinearSettings) -> list[ResultRecord]:
    """One record per feature; writes the chosen classifier of each beside the results.

    In clean mode the rate is chosen on held-out training images after the last epoch; in published
    mode rate and epoch are the best on the split that is reported.

    Raises:
        ConfigError: settings that fit neither network nor data.
        DataError: no held-out image can be read.
    """
    return probe(context, settings, keep_classifiers=not context.baseline)


def probe(
    context: LabelledContext, settings: LinearSettings, *, keep_classifiers: bool
) -> list[ResultRecord]:
    """As `run`."""
    features = _features(context.loaded.backbone, settings.features)
    check_sweep(settings.rates, settings.epochs, settings.batch, settings.holdout)
    inputs = _inputs(context, settings, features)
    sweeps = {
        feature: LinearSweep(
            rows.rows.shape[1],
            context.num_classes,
            [rate * inputs.batch / 256 for rate in settings.rates],
            seed=context.seed,
            optimizer=Optimizer(settings.optimizer, settings.weight_decay),
            device=context.device,
        )
        for feature, rows in inputs.val.items()
    }
    identity = context.identity("linear", plain(settings))
    trained = train_sweeps(
        sweeps,
        inputs.steps,
        inputs.judge,
        epochs=settings.epochs,
        over_epochs=context.mode == "published",
        state=StateFile(context.out / f"sweep-{identity}.state", context.processes),
        progress=context.counter("epochs"),
    )
    records = []
    for feature in features:
        file = context.out / f"linear-{feature}-{identity}.safetensors"
        kept = file if keep_classifiers else None
        records.append(_record(context, settings, feature, inputs, trained[feature], kept))
    return records


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inputs:
    """What the sweeps are trained, judged and scored on."""

    val: ByFeature
    given: ByFeature
    """Of all training images as they are; empty where each epoch has new crops."""
    judge: ByFeature
    steps: Steps
    batch: int
    """Images per step over all processes."""
    num_fit: int
    """Images that are trained on."""
    chosen_on: str
    """What `judge` is, in words."""


def _inputs(context: LabelledContext, settings: LinearSettings, features: list[Feature]) -> _Inputs:
    fit, held, chosen_on = split(context.train, settings.holdout, context.mode, context.seed)
    batch = min(settings.batch, len(fit))
    val = context.features(context.val, "val", features)
    given: ByFeature = {}
    if settings.augment == "none":
        given = context.features(context.train, "train", features)
        steps = row_steps(context, fit, batch, given)
    else:
        extract = partial(compute, context.loaded.backbone, features=features)
        steps = crop_steps(context, fit, batch, extract)
    if context.mode == "published":
        judge = val
    elif given:
        judge = {feature: rows_of(rows, held) for feature, rows in given.items()}
    else:
        judge = context.features(LabelledSubset(context.train, held), "held-out", features)
    return _Inputs(
        val=val,
        given=given,
        judge=judge,
        steps=steps,
        batch=batch,
        num_fit=len(fit),
        chosen_on=chosen_on,
    )


def _features(backbone: Backbone, names: tuple[str, ...]) -> list[Feature]:
    """The features to probe, each once. Raises ConfigError."""
    chosen = []
    for name in names:
        try:
            feature = probe_feature(backbone) if name == "auto" else Feature.parse(name)
        except ValueError as error:
            raise ConfigError(
                f"features={name} is unknown", why=str(error), fix="for example features=n4m0"
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


def _record(
    context: LabelledContext,
    settings: LinearSettings,
    feature: Feature,
    inputs: _Inputs,
    trained: Trained,
    file: Path | None,
) -> ResultRecord:
    """The record of a feature; its classifier is written into `file`, if one is given."""
    val, best = inputs.val[feature], trained.best
    classifier = _classifier(context, settings, feature, best)
    notes = unreadable(val, *([inputs.given[feature]] if inputs.given else []))
    notes += few_held_out(inputs.judge[feature], inputs.chosen_on)
    extra = {}
    if file is not None:
        if context.processes.is_main:
            classifier.save(file)
        extra["classifier"] = str(file)
        notes.append(use_note(file))
    with torch.no_grad():
        logits = torch.cat([classifier.head(r.to(context.device)) for r in val.rows.split(4096)])
    return context.top(
        "linear",
        logits.cpu(),
        val.labels,
        {**plain(settings), "features": str(feature), "batch": inputs.batch},
        num_train=inputs.num_fit,
        row=str(feature) if settings.augment == "crop" else f"{feature} of plain images",
        notes=notes,
        **extra,
        **choice(settings.rates, trained, inputs.chosen_on),
    )


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
        opening=context.opening,
        classes=context.train.classes,
        about={
            "protocol": "linear",
            "rate": rate,
            "epoch": best.epoch + 1,
            "epochs": settings.epochs,
        },
    )
