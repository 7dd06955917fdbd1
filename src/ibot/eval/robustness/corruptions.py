"""Errors on corrupted images, stored (ImageNet-C) or generated (paper table 8; spec_evaluation
9.4).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.labelled import LabelledImages, matched
from ibot.errors import ConfigError, DataError
from ibot.eval.context import Context, plain, unreadable
from ibot.eval.features.views import View
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
from ibot.eval.robustness.imagenet_subsets import NUM_CLASSES
from ibot.eval.robustness.settings import CorruptionSettings
from ibot.eval.robustness.tested_classifier import (
    as_stored,
    classifier_for,
    head_notes,
    head_settings,
    score_images,
)
from ibot.eval.scores import bootstrap_mean
from ibot.rng import Purpose, philox
from ibot.system.distributed import barrier, check_equal
from ibot.system.files import read_state, write_atomically
from ibot.types import ResultRecord

SAVE_SECONDS = 30
"""Between two states on disk."""


class CorruptedImages:
    """The views of a set with one corruption; each image has its own seed, the same at every
    severity.
    """

    def __init__(
        self, base: LabelledImages, view: View, corruption: str, severity: int, seed: int
    ) -> None:
        self.base, self.view, self.corruption, self.severity, self.seed = (
            base,
            view,
            corruption,
            severity,
            seed,
        )
        self.root, self.classes, self.labels = base.root, base.classes, base.labels

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(index)

    def label(self, index: int) -> int:
        """Class of an image."""
        return self.base.label(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The corrupted view, uint8 [h, w, 3]. Raises UnreadableImage."""
        seed = image_seed(self.seed, index)
        return corrupt(
            self.view.render(self.base.read(index)), self.corruption, self.severity, seed
        )

    def fingerprint(self) -> str:
        """That of the base with what is done to it."""
        return f"{self.base.fingerprint()} {self.corruption} {self.severity} {self.seed}"


def image_seed(seed: int, index: int) -> int:
    """A seed in 0..2^32 - 1 for an image, a function of (seed, image index) alone."""
    counter = np.array([index & 0xFFFFFFFF, index >> 32, 0, 0], np.uint64)
    return int(philox((seed, Purpose.CORRUPTION), counter)[0])


def run(context: Context, settings: CorruptionSettings) -> list[ResultRecord]:
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
    _check(context, settings)
    sets = _stored(context, settings) if settings.root else _generated(context, settings)
    notes = _source_notes(settings, sets)
    baseline = _baseline(context, settings, notes) if settings.baseline else None
    if baseline is not None:
        for name in _compared(name for name, _ in sets):
            _baseline_error(settings, baseline, name)
    classifier = classifier_for(context)
    notes += head_notes(context, classifier)
    measured = _measure(context, classifier, sets, notes)
    return _records(context, settings, classifier, measured, baseline, notes)


def _check(context: Context, settings: CorruptionSettings) -> None:
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
    if min(context.view.size) < MIN_SIDE:
        height, width = context.view.size
        raise ConfigError(
            f"views of {height} x {width} pixels are too small to corrupt", fix=f"--size {MIN_SIDE}"
        )
    # A worker could not raise MissingExtra.
    corrupt(np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8), "brightness", 1, 0)


Sets = dict[tuple[str, int], LabelledImages]
"""Images by corruption and severity, in order."""


def _pairs(settings: CorruptionSettings) -> Iterator[tuple[str, int]]:
    for name in (name for name in CORRUPTIONS if name in settings.corruptions):
        for severity in sorted(set(settings.severities)):
            yield name, severity


def _generated(context: Context, settings: CorruptionSettings) -> Sets:
    return {
        (name, severity): CorruptedImages(context.val, context.view, name, severity, context.seed)
        for name, severity in _pairs(settings)
    }


def _stored(context: Context, settings: CorruptionSettings) -> Sets:
    """ROOT/CORRUPTION/SEVERITY/CLASS/*; a corruption that lacks a severity is left out."""
    root = Path(settings.root)
    lacking = {
        name for name, severity in _pairs(settings) if not (root / name / str(severity)).is_dir()
    }
    sets: Sets = {
        (name, severity): _stored_set(context, root / name / str(severity))
        for name, severity in _pairs(settings)
        if name not in lacking
    }
    if not sets:
        raise DataError(
            f"'{root}' holds none of the corruptions",
            why=f"looked for '{settings.corruptions[0]}/1' and others",
            fix="name the folder with CORRUPTION/SEVERITY/CLASS/*",
        )
    return sets


def _stored_set(context: Context, folder: Path) -> LabelledImages:
    """Stored images are made from validation images, which may lack classes of the training
    images.
    """
    images = context.read_alike(open_folder(folder, held_out=True))
    return matched(images, context.train.classes, (str(context.train.root), str(folder)))


def _source_notes(settings: CorruptionSettings, sets: Sets) -> list[str]:
    if not settings.root:
        return [
            "generated: corruptions are made on the fly and do not reproduce the stored set of "
            "ImageNet-C"
        ]
    there = {name for name, _ in sets}
    lacking = [name for name in CORRUPTIONS if name in settings.corruptions and name not in there]
    return (
        [f"corruptions that '{settings.root}' lacks are left out: {', '.join(lacking)}"]
        if lacking
        else []
    )


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
        """Of the mean over corruptions and severities; None where their images are not the same
        ones.
        """
        rows = [wrong for name in names for wrong in self.wrong[name].values()]
        if len({len(row) for row in rows}) > 1:
            return None
        return bootstrap_mean(100 * torch.stack(rows).double().mean(dim=0), seed)


def _measure(
    context: Context, classifier: LinearClassifier, sets: Sets, notes: list[str]
) -> _Measured:
    file = _state_file(context, classifier)
    done: dict[str, tuple[Tensor, list[str]]] = read_state(file) if file.is_file() else {}
    check_equal({"the corruptions that are done": sorted(done)})
    saved = time.monotonic()

    def wrong(images: LabelledImages, name: str) -> Tensor:
        nonlocal saved
        key = f"{name} {images.fingerprint()}"
        if key not in done:
            found = score_images(
                context, images, lambda views, _: classifier.logits(views).argmax(dim=1), name
            )
            done[key] = (found.rows != found.labels, unreadable(found))
            if context.processes.is_main and time.monotonic() - saved >= SAVE_SECONDS:
                write_atomically(file, lambda path: torch.save(done, path))
                saved = time.monotonic()
        rows, bad = done[key]
        notes.extend(note for note in bad if note not in notes)
        return rows

    measured = _Measured(wrong(context.val, "clean"), {})
    for (name, severity), images in sets.items():
        measured.wrong.setdefault(name, {})[severity] = wrong(images, f"{name} {severity}")
    barrier()  # all have read the state
    if context.processes.is_main:
        file.unlink(missing_ok=True)
    return measured


def _state_file(context: Context, classifier: LinearClassifier) -> Path:
    """Where the sets that are done stand until all are; another classifier or view gives another
    file.
    """
    about = head_settings(classifier)
    if "fitted_on" not in classifier.about:  # one that is fitted follows from network and images
        head = torch.cat([classifier.weight.flatten(), classifier.bias]).detach().cpu().numpy()
        about["head"] = hashlib.sha256(head.tobytes()).hexdigest()
    return context.out / f"corruptions-{context.identity('corruptions', about)}.state"


def _records(
    context: Context,
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
    records = [
        replace(cleanly, interval=bootstrap_mean(100 * measured.clean.double(), context.seed))
    ]
    for name, mean in means.items():
        records.append(
            record(
                name, mean, f"{name}, error", [name], errors=errors[name], above_clean=mean - clean
            )
        )
    everything = {"errors": errors, "per_corruption": means, "clean_error": clean, "source": source}
    for metric, mean, names in _averages(score):
        row = f"mean of {len(names)}"
        records.append(record(metric, mean, f"{row}, error", names, **everything))
        records.append(record(f"{metric}_above_clean", mean - clean, f"{row}, above clean"))
    if (
        score.mce is not None
        and set(settings.severities) == set(SEVERITIES)
        and _is_imagenet(context.train.classes)
    ):
        records.append(record("mce", score.mce, "mCE of 15, AlexNet = 100"))
    if baseline is not None:
        names = _compared(means)
        relative = float(
            np.mean(
                [100 * means[name] / _baseline_error(settings, baseline, name) for name in names]
            )
        )
        records.append(
            record("relative", relative, f"mean of {len(names)}, baseline = 100", baseline=baseline)
        )
    return records


def _averages(score: CorruptionScore) -> list[tuple[str, float, Sequence[str]]]:
    """Metric, error and members of the means: over the common 15 and over all 19 where they are
    whole, else over what is there. The published script prints the one over 19.
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
    """The corruptions that a baseline divides: those of the common ones that are there, or all
    where none is.
    """
    there = list(dict.fromkeys(names))
    return [name for name in COMMON_CORRUPTIONS if name in there] or there


def _baseline_error(settings: CorruptionSettings, baseline: dict[str, float], name: str) -> float:
    if not baseline.get(name, 0) > 0:
        raise DataError(
            f"the baseline '{settings.baseline}' has no error above zero for {name}",
            fix="run it on the same corruptions",
        )
    return baseline[name]


def _baseline(context: Context, settings: CorruptionSettings, notes: list[str]) -> dict[str, float]:
    """Errors in per cent by corruption of the last run in a results.jsonl, with a note where its
    images are others.

    Raises DataError for one that cannot be compared.
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
    made = "stored" if settings.root else "generated"
    if last["extra"]["source"] != made or sorted(last["settings"]["severities"]) != sorted(
        settings.severities
    ):
        raise DataError(
            f"the baseline '{settings.baseline}' was measured otherwise",
            why=f"{last['extra']['source']} images of the severities "
            f"{last['settings']['severities']}, here {made} "
            f"ones of {list(settings.severities)}",
            fix="repeat it with the same settings",
        )
    if last.get("data", {}).get("val") != context.val.fingerprint():
        notes.append(f"the baseline '{settings.baseline}' was measured on other images")
    return last["extra"]["per_corruption"]
