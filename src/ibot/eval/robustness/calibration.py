"""Does the classifier know when it is wrong? (spec_evaluation 9.3, on any images)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import unreadable
from ibot.eval.labelled import LabelledContext
from ibot.eval.robustness.calibration_error import (
    aurra,
    confidence_and_correct,
    rms_calibration_error,
)
from ibot.eval.robustness.settings import CalibrationSettings
from ibot.eval.robustness.tested_classifier import (
    classifier_for,
    head_notes,
    head_settings,
    logits_of,
)
from ibot.eval.scores import interval, resamples
from ibot.types import ResultRecord

CURVE_POINTS = 100
RESAMPLES = 100


def run(context: LabelledContext, settings: CalibrationSettings) -> list[ResultRecord]:
    """Accuracy, RMS calibration error and AURRA on the validation images.

    Raises:
        ConfigError: a bin size below one.
        DataError: see `classifier_for`.
    """
    check_bin_size(settings.bin_size)
    classifier = classifier_for(context)
    found = logits_of(context, classifier, context.val, "calibration")
    confidence, correct = confidence_and_correct(found.rows, found.labels)
    notes = head_notes(context, classifier) + unreadable(found)
    return calibration_records(
        context,
        "calibration",
        confidence,
        correct,
        found.labels,
        bin_size=settings.bin_size,
        settings={**plain(settings), **head_settings(classifier)},
        notes=notes,
    )


def check_bin_size(size: int) -> None:
    """Raises ConfigError for less than one image per bin."""
    if size < 1:
        raise ConfigError(f"bin_size={size}: a bin holds at least one image")


def calibration_records(
    context: LabelledContext,
    protocol: str,
    confidence: Tensor,
    correct: Tensor,
    labels: Tensor,
    *,
    bin_size: int,
    settings: dict[str, Any],
    notes: list[str],
) -> list[ResultRecord]:
    """Records in per cent: accuracy, RMS error, in published mode also without the last bin, AURRA.

    Args:
        context: what the records tell of network and images.
        protocol: begins the names of the metrics.
        confidence: [n], 0..1.
        correct: bool [n].
        labels: int64 [n].
        bin_size: images per bin, at most a tenth of them.
        settings: of the records.
        notes: of the records.
    """
    size = max(1, min(bin_size, len(labels) // 10))
    settings = {**settings, "bin_size": size}
    records = [context.accuracy(protocol, correct, labels, settings, row="accuracy", notes=notes)]
    variants = {"rms": False} if context.mode == "clean" else {"rms": False, "rms_published": True}
    for name, drop_last in variants.items():
        error = 100 * rms_calibration_error(confidence, correct, size, drop_last)
        row = "RMS calibration error" + (", without the most confident bin" if drop_last else "")
        records.append(
            context.record(
                protocol,
                f"{protocol}_{name}",
                error,
                settings,
                num_val=len(labels),
                row=row,
                notes=notes,
                curve=_bins(confidence, correct, size),
            )
        )

    drawn = map(torch.from_numpy, resamples(len(labels), RESAMPLES, context.seed))
    areas = [100 * aurra(confidence[rows], correct[rows]) for rows in drawn]
    records.append(
        context.record(
            protocol,
            f"{protocol}_aurra",
            100 * aurra(confidence, correct),
            settings,
            interval=interval(areas),
            num_val=len(labels),
            row="AURRA",
            notes=notes,
            curve=_answered(confidence, correct),
        )
    )
    return records


def _bins(confidence: Tensor, correct: Tensor, size: int) -> dict[str, list[float]]:
    """Images, mean confidence and accuracy (per cent) of each bin; the last one takes the rest."""
    order = confidence.argsort(stable=True)
    ends = [size] * (max(1, len(order) // size) - 1)
    parts = order.split([*ends, len(order) - sum(ends)])
    return {
        "images": [len(part) for part in parts],
        "confidence": [100 * confidence[part].double().mean().item() for part in parts],
        "accuracy": [100 * correct[part].double().mean().item() for part in parts],
    }


def _answered(confidence: Tensor, correct: Tensor) -> dict[str, list[float]]:
    """Accuracy (per cent) of the most confident images, for growing shares of them."""
    hits = correct.double()[confidence.argsort(descending=True, stable=True)].cumsum(dim=0)
    counts = np.unique(np.linspace(1, len(hits), min(CURVE_POINTS, len(hits))).round().astype(int))
    return {
        "answered": [count / len(hits) for count in counts.tolist()],
        "accuracy": [100 * hits[count - 1].item() / count for count in counts.tolist()],
    }
