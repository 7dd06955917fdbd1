"""Fine-tuning of backbone and classifier together (paper tables 2, 3, 7, 12; 8.4, 8.5, 8.7)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import unread
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier, use_note
from ibot.eval.tune.augment import validation_view
from ibot.eval.tune.network import Classifier
from ibot.eval.tune.settings import Architecture, FinetuneSettings, imagenet_settings, sane_settings
from ibot.eval.tune.training import FinetuneResult, finetune
from ibot.models.head import ProjectionHead
from ibot.system.files import read_state
from ibot.types import ResultRecord
from ibot.weights.head import projection_head
from ibot.weights.read import load_weights


def defaults(context: LabelledContext) -> FinetuneSettings:
    """The recipe of ImageNet-1K in published mode; else one whose length fits the images."""
    architecture = nearest_architecture(context.loaded.backbone.embed_dim)
    if context.mode == "published":
        return imagenet_settings(architecture)
    return sane_settings(architecture, len(context.train))


def run(context: LabelledContext, settings: FinetuneSettings) -> list[ResultRecord]:
    """One record: accuracy after the last epoch, in published mode after the best one.

    Checkpoints lie in a folder of `out` of their own; the same command resumes them. The tuned
    network is written as a classifier. Raises ConfigError for a view that is not square.
    """
    return [tune(context, settings, "finetune")]


def tune(context: LabelledContext, settings: FinetuneSettings, protocol: str) -> ResultRecord:
    """Fine-tune on the context's images and score."""
    height, width = context.view.size
    if height != width:
        raise ConfigError(
            f"fine-tuning takes square inputs, not {height}x{width}", fix="--size PIXELS"
        )
    if context.view.fit != "crop":
        raise ConfigError(f"fine-tuning crops its images, --fit {context.view.fit} does not apply")
    identity = context.identity(protocol, plain(settings))
    context = replace(context, view=validation_view(settings, height))
    classifier = Classifier(
        copy.deepcopy(context.loaded.backbone),
        context.num_classes,
        settings,
        head=_head(context, settings),
        seed=context.seed,
    )
    folder = context.out / f"{protocol}-{identity}"
    result = finetune(
        classifier,
        context.train,
        context.val,
        settings,
        size=height,
        device=context.device,
        folder=folder,
        processes=context.processes,
        seed=context.seed,
        workers=context.workers,
        progress=context.counter("steps"),
    )
    return _report(
        context, settings, protocol, classifier, result, folder.with_suffix(".safetensors")
    )


def nearest_architecture(width: int) -> Architecture:
    """Small below 512 channels, base below 896, else large."""
    return "small" if width < 512 else "base" if width < 896 else "large"


def _head(context: LabelledContext, settings: FinetuneSettings) -> ProjectionHead | None:
    """The pre-trained projection head, where its layers are kept."""
    if not settings.head_layers or context.baseline:
        return None
    return projection_head(
        load_weights(context.weights, context.key), context.loaded.backbone.embed_dim, context.key
    )


def _report(
    context: LabelledContext,
    settings: FinetuneSettings,
    protocol: str,
    classifier: Classifier,
    result: FinetuneResult,
    file: Path,
) -> ResultRecord:
    published = context.mode == "published"
    logits = result.best_logits if published else result.last_logits
    epoch = result.best_epoch if published else len(result.scores) - 1
    notes = [*result.notes, *unread([(name, reason) for _, name, reason in result.bad])]
    if not context.baseline:
        if context.processes.is_main:
            _tuned(context, protocol, classifier, result).save(file)
        notes.append(use_note(file))
    return context.top(
        "finetune" if protocol == "semi" else protocol,
        logits,
        result.labels,
        plain(settings),
        row=f"{len(result.scores)} epochs",
        chosen=f"epoch {epoch + 1}",
        chosen_on="val, over epochs" if published else "nothing: the last epoch",
        epochs=[[score.train_loss, score.top1] for score in result.scores],
        classifier="" if context.baseline else str(file),
        notes=notes,
    )


def _tuned(
    context: LabelledContext, protocol: str, classifier: Classifier, result: FinetuneResult
) -> LinearClassifier:
    """The network of the reported epoch as a classifier file."""
    if context.mode == "published":
        classifier.load_state_dict(read_state(result.best_weights)["model"])
    return LinearClassifier(
        backbone=classifier.backbone,
        config=replace(context.loaded.config, pos_size=context.view.size),
        weight=classifier.head.weight,
        bias=classifier.head.bias,
        feature=CLASS_TOKEN,
        unit=False,
        hidden=classifier.projection,
        view=context.view,
        opening=context.opening,
        classes=context.train.classes,
        about={"protocol": protocol},
    )
