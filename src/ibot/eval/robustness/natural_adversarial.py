"""Images chosen to be hard for classifiers, ImageNet-A (paper table 8; spec_evaluation 9.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.images import LabelledImages
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.features.rows import unreadable
from ibot.eval.labelled import LabelledContext
from ibot.eval.robustness.calibration import calibration_records, check_bin_size
from ibot.eval.robustness.calibration_error import confidence_and_correct
from ibot.eval.robustness.imagenet_subsets import IMAGENET_A, NUM_CLASSES
from ibot.eval.robustness.settings import NaturalAdversarialSettings
from ibot.eval.robustness.tested_classifier import (
    classifier_for,
    head_notes,
    head_settings,
    logits_of,
    published_view,
)
from ibot.types import ResultRecord


def run(context: LabelledContext, settings: NaturalAdversarialSettings) -> list[ResultRecord]:
    """Accuracy and calibration on the images of `settings.root`, among the classes that compete.

    Raises:
        ConfigError: no root, or a bin size below one.
        DataError: folders or classes that the classifier does not know, and see `classifier_for`
            and `open_folder`.
    """
    check_bin_size(settings.bin_size)
    if not settings.root:
        raise ConfigError(
            "root is not set",
            why="it names the hard images",
            fix="root=DIR with one folder per class",
        )
    images = context.read_alike(open_folder(settings.root))
    competing = _competing(settings, images, context.train.classes)
    classifier = classifier_for(context)
    notes = head_notes(context, classifier)
    context = published_view(replace(context, val=images))
    found = logits_of(context, classifier, images, "natural_adversarial")
    subset = torch.tensor(list(competing.values()))
    labels = _labels(images, competing, found.labels)
    confidence, correct = confidence_and_correct(found.rows, labels, subset)
    notes += [f"{len(subset)} of {len(classifier.classes)} classes compete", *unreadable(found)]
    return calibration_records(
        context,
        "natural_adversarial",
        confidence,
        correct,
        labels,
        bin_size=settings.bin_size,
        settings={**plain(settings), **head_settings(classifier)},
        notes=notes,
    )


def _competing(
    settings: NaturalAdversarialSettings, images: LabelledImages, classes: tuple[str, ...]
) -> dict[str, int]:
    """Names and numbers of the classes that compete, in order."""
    number = {name: i for i, name in enumerate(classes)}
    published = len(classes) == NUM_CLASSES and len(images.classes) == len(IMAGENET_A)
    if published and not settings.classes:
        # By order: neither folders nor classes need be named by synset.
        return dict(zip(images.classes, IMAGENET_A, strict=True))
    names = settings.classes or images.classes
    if unknown := [name for name in names if name not in number]:
        raise DataError(
            f"'{unknown[0]}' is none of the classifier's {len(classes)} classes",
            why=f"{len(unknown)} of {len(names)} classes are unknown to it",
            fix="rename the folders, or list classes",
        )
    if absent := [name for name in images.classes if name not in names]:
        raise DataError(
            f"'{settings.root}' has the class '{absent[0]}', which does not compete",
            fix="add it to classes=...",
        )
    return {name: number[name] for name in sorted(names, key=lambda name: number[name])}


def _labels(images: LabelledImages, competing: dict[str, int], labels: Tensor) -> Tensor:
    """Folder numbers int64 [n] -> places among the classes that compete."""
    place = {name: i for i, name in enumerate(competing)}
    return torch.tensor([place[name] for name in images.classes])[labels]
