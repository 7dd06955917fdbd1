"""Errors on corrupted images, stored (ImageNet-C) or generated (paper table 8; 9.4)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibot.data.sets.images import LabelledImages
from ibot.errors import ConfigError, DataError
from ibot.eval.context import plain
from ibot.eval.features.rows import unreadable
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.robustness.corrupt import (
    COMMON_CORRUPTIONS,
    CORRUPTIONS,
    MIN_SIDE,
    SEVERITIES,
    CorruptionScore,
    corrupt,
    mean_corruption_error,
)
from ibot.eval.robustness.corrupted_images import (
    Sets,
    generated_sets,
    source_notes,
    stored_sets,
)
from ibot.eval.robustness.imagenet_subsets import NUM_CLASSES
from ibot.eval.robustness.settings import CorruptionSettings
from ibot.eval.robustness.tested_classifier import (
    as_stored,
    classifier_for,
    head_notes,
    head_settings,
    score_labelled,
)
from ibot.eval.scores import bootstrap_mean
from ibot.eval.state_file import StateFile
from ibot.types import ResultRecord


def run(context: LabelledContext, settings: CorruptionSettings) -> list[ResultRecord]:
    """Errors in per cent: clean, of each corruption (mean over severities), and their means.

    Records of means hold all errors, so that another run can take them as its baseline. The same
    command goes on after the last set of images that a killed run has saved.

    Raises:
        ConfigError: unknown corruptions or severities, or a view too small to corrupt.
        DataError: no stored images, other classes, a baseline that does not fit, and see
            `classifier_for`.
        MissingExtra: images are to be generated and the package is not installed.
    """
    context = as_stored(context)
    _check(settings, context.view.size)
    sets = stored_sets(context, settings) if settings.root else generated_sets(context, settings)
    notes = source_notes(settings, sets)
    baseline = None
    if settings.baseline:
        baseline = _baseline(settings, context.val.fingerprint(), notes)
        for name in _compared(name for name, _ in sets):
            _baseline_error(settings, baseline, name)
    classifier = classifier_for(context)
    notes += head_notes(context, classifier)
    measured = _measure(context, classifier, sets, notes)
    return _records(context, settings, classifier, measured, baseline, notes)


def _check(settings: CorruptionSettings, size: tuple[int, int]) -> None:
    unknown = [name for name in settings.corruptions if name not in CORRUPTIONS]
    if unknown or not settings.corruptions:
        raise ConfigError(
            f"corruptions={','.join(settings.corruptions)} names none or unknown ones",
            why=f"known are {', '.join(CORRUPTIONS)}",
            fix="for example corruptions=fog,snow",
        )
    if not settings.severities or not set(settings.severities) <= set(SEVERITIES):
        raise ConfigError(
            f"severities={','.join(map(str, settings.severities))} are not all between 1 and 5",
            fix="for example severities=1,3,5",
        )
    if settings.root:
        return
    if min(size) < MIN_SIDE:
        height, width = size
        raise ConfigError(
            f"views of {height} x {width} pixels are too small to corrupt", fix=f"--size {MIN_SIDE}"
        )
    # A worker could not raise MissingExtra.
    corrupt(np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8), "brightness", 1, 0)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Whether each image is classified wrongly, bool [n]."""

    clean: Tensor
    wrong: dict[str, dict[int, Tensor]]
    """By corruption and severity."""

    @property
    def clean_error(self) -> float:
        """Per cent."""
        return 100 * self.clean.double().mean().item()

    def errors(self) -> dict[str, list[float]]:
        """Per cent, by corruption, severities rising."""
        return {
            name: [100 * wrong.double().mean().item() for wrong in by_severity.values()]
            for name, by_severity in self.wrong.items()
        }

    def interval(self, names: Sequence[str], seed: int) -> tuple[float, float] | None:
        """Of the mean over corruptions and severities; None where their images differ."""
        rows = [wrong for name in names for wrong in self.wrong[name].values()]
        if len({len(row) for row in rows}) > 1:
            return None
        return bootstrap_mean(100 * torch.stack(rows).double().mean(dim=0), seed)


def _measure(
    context: LabelledContext, classifier: LinearClassifier, sets: Sets, notes: list[str]
) -> _Measured:
    state = StateFile(_state_file(context, classifier), context.processes)
    done: dict[str, tuple[Tensor, list[str]]] = state.read(progress=sorted) or {}

    def wrong(images: LabelledImages, name: str) -> Tensor:
        key = f"{name} {images.fingerprint()}"
        if key not in done:
            found = score_labelled(
                context, images, lambda views, _: classifier.logits(views).argmax(dim=1), name
            )
            done[key] = (found.rows != found.labels, unreadable(found))
            if state.due:
                state.write(lambda: done)
        rows, bad = done[key]
        notes.extend(note for note in bad if note not in notes)
        return rows

    measured = _Measured(wrong(context.val, "clean"), {})
    for (name, severity), images in sets.items():
        measured.wrong.setdefault(name, {})[severity] = wrong(images, f"{name} {severity}")
    state.remove()
    return measured


def _state_file(context: LabelledContext, classifier: LinearClassifier) -> Path:
    """Where the sets that are done stand until all are: a file for each classifier and view."""
    about = head_settings(classifier)
    if "fitted_on" not in classifier.about:  # one that is fitted follows from network and images
        head = torch.cat([classifier.weight.flatten(), classifier.bias]).detach().cpu().numpy()
        about["head"] = hashlib.sha256(head.tobytes()).hexdigest()
    return context.out / f"corruptions-{context.identity('corruptions', about)}.state"


def _records(
    context: LabelledContext,
    settings: CorruptionSettings,
    classifier: LinearClassifier,
    measured: _Measured,
    baseline: dict[str, float] | None,
    notes: list[str],
) -> list[ResultRecord]:
    source = "stored" if settings.root else "generated"
    used = {**plain(settings), **head_settings(classifier), "source": source}
    clean, errors = measured.clean_error, measured.errors()
    means = {name: float(np.mean(row)) for name, row in errors.items()}
    # With fewer severities the mean of those measured stands for all five.
    score = mean_corruption_error({name: [mean] * len(SEVERITIES) for name, mean in means.items()})

    def record(
        metric: str, value: float, row: str, names: Sequence[str] = (), **extra: Any
    ) -> ResultRecord:
        interval = measured.interval(names, context.seed) if names else None
        return context.record(
            "corruptions",
            f"corruptions_{metric}",
            value,
            used,
            interval=interval,
            num_val=len(measured.clean),
            row=row,
            notes=notes,
            **extra,
        )

    cleanly = record("clean_error", clean, "clean error")
    interval = bootstrap_mean(100 * measured.clean.double(), context.seed)
    records = [replace(cleanly, interval=interval)]
    for name, mean in means.items():
        about = {"errors": errors[name], "above_clean": mean - clean}
        records.append(record(name, mean, f"{name}, error", [name], **about))
    everything = {"errors": errors, "per_corruption": means, "clean_error": clean, "source": source}
    for metric, mean, names in _averages(score):
        row = f"mean of {len(names)}"
        records.append(record(metric, mean, f"{row}, error", names, **everything))
        records.append(record(f"{metric}_above_clean", mean - clean, f"{row}, above clean"))
    whole = set(settings.severities) == set(SEVERITIES)
    if score.mce is not None and whole and _is_imagenet(context.train.classes):
        records.append(record("mce", score.mce, "mCE of 15, AlexNet = 100"))
    if baseline is not None:
        names = _compared(means)
        relative = [100 * means[name] / _baseline_error(settings, baseline, name) for name in names]
        row = f"mean of {len(names)}, baseline = 100"
        records.append(record("relative", float(np.mean(relative)), row, baseline=baseline))
    return records


def _averages(score: CorruptionScore) -> list[tuple[str, float, Sequence[str]]]:
    """Metric, error and members of the means.

    Over the common 15 and over all 19 where they are whole, else over what is there. The published
    script prints the one over 19.
    """
    whole = [
        ("mean_15", score.mean_15, COMMON_CORRUPTIONS),
        ("mean_19", score.mean_19, CORRUPTIONS),
    ]
    found = [(metric, mean, names) for metric, mean, names in whole if mean is not None]
    return found or [("mean", score.mean, tuple(score.per_corruption))]


def _is_imagenet(classes: tuple[str, ...]) -> bool:
    return len(classes) == NUM_CLASSES and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def _compared(names: Iterable[str]) -> list[str]:
    """What a baseline divides: the common corruptions that are there, or all where none is."""
    there = list(dict.fromkeys(names))
    return [name for name in COMMON_CORRUPTIONS if name in there] or there


def _baseline_error(settings: CorruptionSettings, baseline: dict[str, float], name: str) -> float:
    if not baseline.get(name, 0) > 0:
        raise DataError(
            f"the baseline '{settings.baseline}' has no error above zero for {name}",
            fix="run it on the same corruptions",
        )
    return baseline[name]


def _baseline(settings: CorruptionSettings, images: str, notes: list[str]) -> dict[str, float]:
    """Errors in per cent by corruption of the last run in a results.jsonl.

    Adds a note where its images have another fingerprint than `images`. Raises DataError for one
    that cannot be compared.
    """
    try:
        lines = Path(settings.baseline).read_text().splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"the baseline '{settings.baseline}' cannot be read",
            why=str(error),
            fix="name the results.jsonl of a run",
        ) from None
    runs = [record for record in records if "per_corruption" in record.get("extra", {})]
    if not runs:
        raise DataError(
            f"the baseline '{settings.baseline}' holds no result of this protocol",
            why=f"looked at {len(records)} records",
            fix="run `ibot eval corruptions` there",
        )
    last = runs[-1]
    made, severities = "stored" if settings.root else "generated", list(settings.severities)
    source, measured = last["extra"]["source"], last["settings"]["severities"]
    if source != made or sorted(measured) != sorted(severities):
        raise DataError(
            f"the baseline '{settings.baseline}' was measured otherwise",
            why=f"{source} images of the severities {measured}, here {made} ones of {severities}",
            fix="repeat it with the same settings",
        )
    if last.get("data", {}).get("val") != images:
        notes.append(f"the baseline '{settings.baseline}' was measured on other images")
    return last["extra"]["per_corruption"]
