"""Which classifier a user means: a file, or the best one that evaluations left in a folder."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot.errors import UserError, WeightsError
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.linear_classifier import load_classifier as read_file
from ibot.eval.opened import default_out
from ibot.system.records import RESULTS, data_name, read_records
from ibot.types import ResultRecord
from ibot.weights.files import locate, read_settings
from ibot.words import counted

CONFIG = "config.json"
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""What runs hold, and how files of weights end: they can be evaluated."""


@dataclass(frozen=True, slots=True)
class Found:
    """A classifier and where it was found."""

    classifier: LinearClassifier
    file: Path
    note: str = ""
    """What a user who named a folder should know of the choice."""


def load_classifier(classifier: str | Path) -> LinearClassifier:
    """Read a classifier with its network, on the CPU and in evaluation mode.

    Its `logits` are class scores [B, C] of images that `ibot.transform(classifier)` makes; see
    `ibot.predict` for whole folders.

    Args:
        classifier: a file that `ibot eval linear`, `logistic`, `finetune`, `transfer` or `ibot
            weights export --to classifier` wrote; or a run, the results of other weights or these
            weights themselves: then the best one on the images that were evaluated there last.

    Raises:
        UserError: there is none. WeightsError: there is no such file, or it is damaged.
    """
    return find_classifier(classifier).classifier


def find_classifier(place: str | Path) -> Found:
    """As `load_classifier`, with where it was found."""
    path = Path(place)
    if not path.exists():
        raise WeightsError(f"there is no file or folder '{path}'", fix="check the path")
    if (stored := read_file(path)) is not None:
        return Found(stored, path)
    folder = path if (path / RESULTS).is_file() else default_out(path)
    left = [
        (record, folder / Path(record.extra["classifier"]).name)
        for record in read_records(folder / RESULTS)
        if record.extra.get("classifier")
    ]
    there = [(record, file) for record, file in left if file.is_file()]
    if not there:
        raise _none(path, folder, len(left))
    images = there[-1][0].data.get("val")
    same = [(record, file) for record, file in there if record.data.get("val") == images]
    record, file = max(reversed(same), key=lambda one: one[0].value)
    found = read_file(file)
    if found is None:
        raise WeightsError(f"'{file}' cannot be read", why="it holds no classifier any more")
    chosen = f"{said(record)}{_of(len({file for _, file in same}))}{_earlier(folder, record)}"
    return Found(found, file, f"{file} is used: {chosen}")


def said(record: ResultRecord) -> str:
    """How good a classifier was, in words."""
    name = f"{record.protocol} {record.row}".strip()
    where = data_name(record.data.get("root", ""))
    measured = f"{record.value:.2f} % of {counted(record.num_val, 'validation image')}"
    return f"{name}, {measured} of '{where}' right"


def about(classifier: LinearClassifier) -> dict[str, Any]:
    """What a user may want to know of a classifier, in words by title."""
    view, mean, std = classifier.view, *classifier.config.statistics
    height, width = view.size
    learnt = {k: v for k, v in classifier.about.items() if k != "protocol"}
    return {
        "head": " ".join(
            [str(classifier.about.get("protocol", "")), *(f"{k}={v}" for k, v in learnt.items())]
        ),
        "classes": f"{len(classifier.classes)}: {', '.join(classifier.classes)}",
        "network": str(classifier.config),
        "images": f"{height}x{width} pixels, {view.fit}, {view.interpolation}; minus {mean}, over "
        f"{std}",
    }


def _of(count: int) -> str:
    return f"; the best of {count} on these images" if count > 1 else ""


def _earlier(run: Path, record: ResultRecord) -> str:
    """That a run has trained on since its classifier did, where files and record say it."""
    if record.trained is None or not (run / CONFIG).is_file():
        return ""
    try:
        now = read_settings(locate(run, record.key or "teacher").parent / "state.json").get("step")
    except WeightsError:  # checkpoints that are gone
        return ""
    if now is None or now <= record.trained:
        return ""
    again = f"ibot eval {record.protocol} {shlex.quote(str(run))} --data DIR"
    return f"; of step {record.trained}, the run is at step {now}: {again} trains a newer one"


def _none(path: Path, folder: Path, deleted: int) -> UserError:
    if deleted:
        why = f"evaluations left {counted(deleted, 'file')} in '{folder}', which are gone"
    else:
        why = f"no evaluation with a trained head has left one in '{folder}'"
    is_network = (path / CONFIG).is_file() or (path.is_file() and path.suffix in WEIGHTS)
    network = shlex.quote(str(path)) if is_network else "RUN"
    train = f"ibot eval logistic {network} --data DIR trains one on labelled images (so do linear"
    first = "" if is_network else "name the classifier first, then images; "
    return UserError(f"'{path}' holds no classifier", why=why, fix=f"{first}{train} and finetune)")
