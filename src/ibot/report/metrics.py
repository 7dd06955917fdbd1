"""Rows of metrics.jsonl by columns, also while a training writes them.

A file may be in the middle of a line, of another version, or gone: what can be read is read.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

METRICS = "metrics.jsonl"
KEPT = 2
"""Runs of which is kept what was read."""


@dataclass(slots=True)
class Metrics:
    """What metrics.jsonl holds, by columns."""

    images: array[float] = field(default_factory=lambda: array("d"))
    """Images seen, of each row."""
    columns: dict[str, array[float]] = field(default_factory=dict)
    """Values of each row, nan where one is missing or not finite."""
    last: dict[str, Any] = field(default_factory=dict)
    """The last row."""

    def seconds(self, before: float = 0.0) -> float:
        """Time of the steps, which is without that of evaluations and checkpoints.

        before: images seen before the training that the first row tells of.
        """
        total = 0.0
        for seen, speed in zip(
            self.images, self.columns.get("images_per_second", ()), strict=False
        ):
            total += (seen - before) / speed if speed > 0 else 0.0
            before = seen
        return total


@dataclass(slots=True)
class _Read:
    """What was read of a file so far."""

    metrics: Metrics
    end: int = 0
    """Bytes up to the end of the last whole line."""
    tail: bytes = b""
    """That line, by which it is known whether the file has only grown."""


_known: OrderedDict[tuple[Path, int, tuple[str, ...]], _Read] = OrderedDict()
_lock = Lock()
"""A server may be asked in several threads."""


def read_metrics(run: Path, batch: int, columns: tuple[str, ...]) -> Metrics:
    """The rows of a run, up to the last whole line; none where there is no file.

    Of a file that has grown since the last call only what is new is read: a page that is looked at
    costs a training little.

    Args:
        run: its folder.
        batch: gives the images of rows that name only their step.
        columns: keys of the values to be read.
    """
    key = run / METRICS, batch, columns
    with _lock:
        known = _known.pop(key, None) or _Read(_empty(columns))
        try:
            known = _read_on(known, *key)
        except OSError:
            return Metrics()
        _known[key] = known
        while len(_known) > KEPT:
            _known.popitem(last=False)
        own = known.metrics
        copied = {name: column[:] for name, column in own.columns.items()}
        return Metrics(own.images[:], copied, own.last)


def _empty(columns: tuple[str, ...]) -> Metrics:
    return Metrics(columns={key: array("d") for key in columns})


def _read_on(known: _Read, file: Path, batch: int, columns: tuple[str, ...]) -> _Read:
    """Read what was added; all of a file that was written anew. Raises OSError."""
    with file.open("rb") as lines:
        lines.seek(known.end - len(known.tail))
        if lines.read(len(known.tail)) != known.tail:
            known = _Read(_empty(columns))
            lines.seek(0)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            known.end, known.tail = known.end + len(line), line
            row = _row(line)
            if row is not None:
                _add(known.metrics, row, batch)
    return known


def _add(metrics: Metrics, row: dict[str, Any], batch: int) -> None:
    step = number(row.get("step"))
    seen = number(row.get("images_seen", None if step is None else step * batch))
    if seen is None:
        return
    while metrics.images and metrics.images[-1] >= seen:  # written again after a resumption
        metrics.images.pop()
        for column in metrics.columns.values():
            column.pop()
    metrics.images.append(seen)
    for key, column in metrics.columns.items():
        value = row.get(key)
        # Most are finite floats, and there are many.
        quick = type(value) is float and value - value == 0
        known = value if quick else number(value)
        column.append(math.nan if known is None else known)
    metrics.last = row


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, as far as it can be read; torn lines are passed over."""
    try:
        with file.open("rb") as lines:
            for line in lines:
                row = _row(line)
                if row is not None:
                    yield row
    except OSError:
        return


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def number(value: object) -> float | None:
    """A finite number as such; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond any float
        return None
