"""The numbers of a run over its images: curves of its log and of its evaluations on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ibot.report.metrics import Metrics, number
from ibot.types import ResultRecord
from ibot.words import encodable

POINTS = 500
"""Of a series that is shown."""

Point = tuple[float, float]
"""Images seen, value."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a curve."""

    name: str
    points: Sequence[Point]
    spread: Sequence[tuple[float, float] | None] = ()
    """95 % interval of each point, where there are some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One picture: what belongs together and has one unit."""

    id: str
    title: str
    unit: str
    series: Sequence[Series]
    level: float | None = None
    """A value to compare with, such as that of outputs that say nothing."""
    level_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A curve of metrics.jsonl as it is to be shown."""

    id: str
    title: str
    unit: str
    series: dict[str, str]
    """Name -> key of a row."""
    level: str = ""
    """Key of the value to compare with."""
    level_name: str = ""
    times: float = 1.0
    """What values are multiplied with for the unit."""


KINDS = (
    Kind(
        id="loss",
        title="Loss",
        unit="nats",
        series={
            "class token": "cls_loss",
            "masked patches": "patch_loss_masked",
            "visible patches": "visible_loss",
        },
        level="ln_k",
        level_name="ln K: outputs say nothing",
    ),
    Kind(
        id="entropy",
        title="Entropy of the teacher",
        unit="nats",
        series={
            "class token": "teacher_entropy",
            "masked patches": "patch_entropy",
            "visible patches": "visible_entropy",
        },
        level="ln_k",
        level_name="ln K: outputs say nothing",
    ),
    Kind(
        id="spread",
        title="Entropy of a batch's mean",
        unit="nats",
        series={"class token": "marginal_entropy", "patches": "patch_marginal_entropy"},
        level="ln_k",
        level_name="ln K: all prototypes alike",
    ),
    Kind(
        id="kl",
        title="KL divergence from the teacher",
        unit="nats",
        series={"class token": "cls_kl", "masked patches": "patch_kl"},
    ),
    Kind(
        id="rank",
        title="Effective rank of class tokens",
        unit="directions",
        series={"class tokens of a batch": "effective_rank"},
    ),
    Kind(
        id="prototypes",
        title="Prototypes in use",
        unit="prototypes",
        series={"class token": "cls_prototypes_used", "patches": "patch_prototypes_used"},
        level="k",
        level_name="K",
    ),
    Kind(
        id="agreement",
        title="Student and teacher choose the same prototype",
        unit="% of images",
        series={"student and teacher": "agreement"},
        times=100,
    ),
    Kind(id="koleo", title="KoLeo regulariser", unit="nats", series={"class tokens": "koleo_loss"}),
    Kind(
        id="gradients",
        title="Norm of the gradient",
        unit="",
        series={
            "backbone": "grad_backbone",
            "head": "grad_head_mlp",
            "last layer": "grad_last_layer",
        },
    ),
    Kind(id="lr", title="Learning rate", unit="", series={"learning rate": "lr"}),
    Kind(id="momentum", title="Momentum of the teacher", unit="", series={"momentum": "momentum"}),
    Kind(
        id="temperatures",
        title="Temperatures of the teacher",
        unit="",
        series={"class token": "teacher_temp", "patches": "patch_temp"},
    ),
    Kind(id="weight_decay", title="Weight decay", unit="", series={"weight decay": "weight_decay"}),
    Kind(id="speed", title="Speed", unit="images/s", series={"training": "images_per_second"}),
    Kind(
        id="wait",
        title="Waiting for images",
        unit="% of the time",
        series={"waiting": "wait_fraction"},
        times=100,
    ),
    Kind(
        id="stages",
        title="Stages of a step",
        unit="seconds",
        series={
            "decode": "decode_seconds",
            "render": "render_seconds",
            "transfer": "transfer_seconds",
            "step": "step_seconds",
        },
    ),
)
LEVELS = ("ln_k", "ln_k_patch")
LOGGED = (*LEVELS, *sorted({key for kind in KINDS for key in kind.series.values()}))
"""Keys of the rows that the curves need."""
EVALUATED = {
    "knn_top1": ("k-NN accuracy of the teacher", "%"),
    "match_r1": ("Patches matched between two views", "%"),
    "dense_knn_miou": ("Dense k-NN, mean IoU", "%"),
}
"""Title and unit of what a training measures on its way."""


def training_curves(metrics: Metrics) -> list[Curve]:
    """The curves of what has been logged, thinned; those of nothing but 0 are left out."""
    found = []
    for kind in KINDS:
        series = [
            Series(name, thinned(metrics.images, metrics.columns.get(key, ()), times=kind.times))
            for name, key in kind.series.items()
        ]
        series = [part for part in series if any(value for _, value in part.points)]
        if series:
            level = _level(metrics, kind)
            name = kind.level_name if level is not None else ""
            found.append(
                Curve(
                    id=kind.id,
                    title=kind.title,
                    unit=kind.unit,
                    series=series,
                    level=level,
                    level_name=name,
                )
            )
    return found


def _level(metrics: Metrics, kind: Kind) -> float | None:
    """The last value to compare with; None where class token and patches have different ones."""
    if not kind.level:
        return None
    last = [number(metrics.last.get(key)) for key in LEVELS]
    if last[0] is None or last[1] not in (None, last[0]):
        return None
    return float(round(math.exp(last[0]))) if kind.level == "k" else last[0]


def evaluation_curves(records: Iterable[ResultRecord], batch: int) -> list[Curve]:
    """A curve for each metric that the training measured on its way, with intervals."""
    by_metric: dict[str, dict[int, ResultRecord]] = {}
    for record in records:
        if isinstance(record.step, int) and number(record.value) is not None:
            by_metric.setdefault(record.metric, {})[record.step] = record
    found = []
    for metric, steps in by_metric.items():
        name = encodable(metric)
        title, unit = EVALUATED.get(metric, (name, ""))
        ordered = [steps[step] for step in sorted(steps)]
        points = [(float((record.step or 0) * batch), float(record.value)) for record in ordered]
        spread = [interval_of(record) for record in ordered]
        chance = number(ordered[-1].extra.get("chance"))
        found.append(
            Curve(
                id=name,
                title=title,
                unit=unit,
                series=[Series("teacher", points, spread)],
                level=chance,
                level_name="" if chance is None else "chance",
            )
        )
    return found


def interval_of(record: ResultRecord) -> tuple[float, float] | None:
    """The 95 % interval of a record.

    Trainings keep none of k-NN accuracy, which is a share of so many images: for it that of Wilson
    (1927).
    """
    if record.interval is not None:
        ends = [number(end) for end in record.interval]
        return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else None  # pyright: ignore[reportReturnType]
    if record.metric != "knn_top1" or not isinstance(record.num_val, int) or record.num_val < 1:
        return None
    return wilson(record.value / 100, record.num_val)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval, in per cent, of a share 0..1 that was found among `count` images."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))


def thinned(
    images: Sequence[float], values: Sequence[float], *, most: int = POINTS, times: float = 1.0
) -> list[Point]:
    """About `most` points of a series, its extremes among them: of each part of it the smallest
    and the largest, and the ends.

    Values that are no numbers are left out.
    """
    value = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(value))
    if len(known) > most:
        kept = {int(known[0]), int(known[-1])}
        for part in np.array_split(known, most // 2 - 1):
            kept |= {int(part[value[part].argmin()]), int(part[value[part].argmax()])}
        known = np.array(sorted(kept))
    return [(float(images[i]), float(value[i]) * times) for i in known.tolist()]
