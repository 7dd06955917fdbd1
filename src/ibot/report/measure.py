"""What makes two numbers comparable, and how the rows of a table are called and ordered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ibot.config.override import show
from ibot.eval.registry import EVALUATIONS
from ibot.report.records import PRE_TRAINING, Entry
from ibot.system.records import data_name
from ibot.types import ResultRecord
from ibot.words import by_numbers

LISTED = 4
"""Values of a list that a title shows; of a longer one it shows the ends."""
OF_THE_VIEW = ("size", "fit", "interpolation", "exif_orientation")
"""Settings of a record that belong to no protocol."""
CONCERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "semi": {"share": (), "lists": (), "probes": (), "subsets": ()},
    "part_linear": {"shares": ()},
    "backgrounds": {"challenge": ()},
    "corruptions": {
        "corruptions": ("corruptions_mean", "corruptions_relative"),
        "baseline": ("corruptions_relative",),
    },
    "shuffle": {"grids": ()},
    "retrieval": {"k": (), "shown": ()},
    "copy_detection": {"attacks": (), "shown": ()},
}
"""Settings that decide which rows a protocol reports, and the starts of the names of the metrics
that they change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What makes two numbers comparable: a row of the table."""

    protocol: str
    row: str
    """As the protocol calls it, or the metric's name within the protocol."""
    metric: str
    """Whole name."""
    mode: str
    data: str
    """Name of the images."""
    val: str
    """How many of them, and how many to train on."""
    train: str
    size: str
    """Of the view, empty where it is not known."""
    fit: str
    orientation: str
    settings: tuple[tuple[str, str], ...]
    """Names and values, as JSON, of the protocol's settings."""


FURTHER = ("metric", "mode", "data", "val", "train", "size", "fit", "orientation")
"""Fields beside row and settings, in the order in which a title names those that differ."""


def measure_of(entry: Entry) -> Measure:
    """Where a record stands in the table."""
    record = entry.record
    size, fit = record.settings.get("size"), record.settings.get("fit")
    return Measure(
        protocol=record.protocol,
        row=entry.row,
        metric=entry.metric,
        mode=entry.mode,
        data=entry.data,
        val=f"{record.num_val} images",
        train=f"{record.num_train} training images",
        size="x".join(map(str, size)) + " pixels" if isinstance(size, list | tuple) else "",
        fit=f"fit={fit}" if fit else "",
        orientation=f"exif_orientation={record.settings.get('exif_orientation', 'apply')}",
        settings=_of_protocol(record),
    )


def _of_protocol(record: ResultRecord) -> tuple[tuple[str, str], ...]:
    """The settings of its protocol, as JSON, that do not show in the row.

    What a record lacks, as one of an earlier version may, has its default. What the defaults depend
    on, network or number of images, is not known here: such protocols too are compared by what was
    used.
    """
    known = EVALUATIONS.get(record.protocol)
    if known is None:
        own = (item for item in record.settings.items() if item[0] not in OF_THE_VIEW)
        return tuple((key, json.dumps(value)) for key, value in own)
    found, partial = [], CONCERNS.get(record.protocol, {})
    for key, default in json.loads(json.dumps(asdict(known.settings))).items():
        value = record.settings.get(key, default)
        one_of_them = isinstance(default, list) and not isinstance(value, list | tuple)
        # Records of classifiers describe them under `head`, also where that is the name of a
        # setting.
        elsewhere = one_of_them or isinstance(value, dict)
        if not elsewhere and record.metric.startswith(partial.get(key, "")):
            found.append((key, json.dumps(data_name(value) if key == "root" else value)))
    return tuple(found)


def ordered(measures: Iterable[Measure], metrics: Sequence[str]) -> list[Measure]:
    """Rows of a protocol together, those of one metric by words, then by the numbers in them,
    those in training first.

    Metrics of a protocol keep the order in which it reports them, which is that of `metrics`.
    """
    return sorted(measures, key=lambda measure: _key(measure, metrics))


def _key(measure: Measure, metrics: Sequence[str]) -> tuple[Any, ...]:
    protocol, known = measure.protocol, list(EVALUATIONS)
    return (
        known.index(protocol) if protocol in known else len(known),
        protocol,
        metrics.index(measure.metric),
        by_numbers(measure.row),
        measure.mode != PRE_TRAINING,
        *(getattr(measure, name) for name in (*FURTHER[1:], "settings")),
    )


def title(measure: Measure, rows: Iterable[Measure]) -> tuple[str, ...]:
    """Parts of a title: protocol and row, and of all else what tells it from the other `rows`."""
    parts = [measure.protocol, measure.row]
    alike = [other for other in rows if [other.protocol, other.row] == parts]
    for name in FURTHER:
        own = getattr(measure, name)
        if len({getattr(other, name) for other in alike}) > 1 and own:
            parts.append(str(own))
        alike = [other for other in alike if getattr(other, name) == own]
    for name, value in measure.settings:
        values = {text for other in alike for key, text in other.settings if key == name}
        if len(values) > 1:
            brief = len({_written(text) for text in values}) == len(values)
            parts.append(f"{name}={_written(value, brief)}")
        alike = [other for other in alike if (name, value) in other.settings]
    return tuple(parts)


def _written(text: str, brief: bool = True) -> str:
    """A value given as JSON in the form of the command line."""
    value = json.loads(text)
    if not isinstance(value, list):
        return show(value) or "none"
    shown = [":".join(map(show, item)) if isinstance(item, list) else show(item) for item in value]
    if brief and len(shown) > LISTED:
        return f"{shown[0]}..{shown[-1]} ({len(shown)} values)"
    return ",".join(shown or ["none"])
