"""Records side by side: a row for what is comparable, a column for each network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibot.eval.registry import lower_is_better
from ibot.report.beside import baseline_cells
from ibot.report.measure import Measure, measure_of, ordered, title
from ibot.report.records import Entry, span_of
from ibot.types import ResultRecord

MAIN = 4
"""Rows of an evaluation that are shown unless all are asked for."""
Cells = list[list[str]]
"""Lines of cells, titles first; a cell may hold several lines."""


@dataclass(frozen=True, slots=True)
class Table:
    """The last record of each row and column."""

    rows: dict[Measure, tuple[str, ...]]
    """Title, in parts: protocol, row, and what tells it from the others."""
    networks: list[tuple[str, ...]]
    """Run or weights, network, and the version where there are several: the columns."""
    cells: dict[tuple[Measure, tuple[str, ...]], ResultRecord]
    """By row and column."""
    baselines: frozenset[tuple[str, ...]] = frozenset()
    """Columns, the last ones, of what has learnt nothing."""

    def main(self) -> Table:
        """The rows that are read first: of an evaluation with many those of its first metric, and
        of these the first `MAIN`.
        """
        chosen: list[Measure] = []
        for protocol in dict.fromkeys(row.protocol for row in self.rows):
            own = [row for row in self.rows if row.protocol == protocol]
            same = [row for row in own if row.metric == own[0].metric]
            chosen += own if len(own) <= MAIN else same[:MAIN]
        used = {column for row, column in self.cells if row in chosen}
        networks = [name for name in self.networks if name in used or name not in self.baselines]
        return replace(self, rows={row: self.rows[row] for row in chosen}, networks=networks)


def side_by_side(entries: Sequence[Entry], beside: Sequence[Entry] = ()) -> Table:
    """One row per metric, one column per network with its weights; then columns of baselines.

    Entries come in order of time, so that the last stays. `beside`: those of baselines, shown in
    the rows of the networks.
    """
    columns = _columns(entries)
    cells = {
        (measure_of(entry), columns[entry.subject, entry.version]): entry.record
        for entry in entries
    }
    metrics = list(dict.fromkeys(entry.metric for entry in entries))
    rows = ordered({measure for measure, _ in cells}, metrics)
    plain = baseline_cells(beside, set(rows))
    others = tuple(dict.fromkeys(column for _, column in plain))
    return Table(
        {row: title(row, rows) for row in rows},
        [*columns.values(), *others],
        cells | plain,
        frozenset(others),
    )


def _columns(entries: Iterable[Entry]) -> dict[tuple[tuple[str, str], str], tuple[str, ...]]:
    """Title of the column of each subject and version, in order.

    Folders stand as they were named, versions by time; what trainings measured comes last.
    """
    found = dict.fromkeys((entry.subject, entry.version) for entry in entries if entry.record.when)
    found |= dict.fromkeys((entry.subject, entry.version) for entry in entries)
    count = Counter(subject for subject, _ in found)
    label = {(entry.subject, entry.version): entry.label for entry in entries}
    alike = Counter((subject, label[subject, version]) for subject, version in found)
    place = {
        entry.subject: entry.place for entry in sorted(entries, key=lambda entry: -entry.place)
    }
    titles = {}
    for subject, version in sorted(found, key=lambda column: (place[column[0]], column[0])):
        name = label[subject, version]
        if alike[subject, name] > 1:  # trained on between two records of the training
            name = f"{name}, {version}"
        several = version and count[subject] > 1
        titles[subject, version] = (*subject, name) if several else subject
    return titles


def cells_of(
    table: Table,
    intervals: bool = False,
    ranges: bool = False,
    names: Mapping[tuple[str, ...], tuple[str, ...]] | None = None,
) -> Cells:
    """The table as text; run and network of a column stand one below the other.

    Args:
        table: what to show.
        intervals: add two columns to each for the ends of the 95 % intervals.
        ranges: add a column, where there are means over several draws, for the range of the draws.
        names: other names of the columns than their own.
    """
    lines = [["protocol", "row"]]
    lines += [
        [protocol, ", ".join(row) + low_mark(measure)]
        for measure, (protocol, *row) in table.rows.items()
    ]
    for network in table.networks:
        records = [table.cells.get((row, network)) for row in table.rows]
        called = names[network] if names else network
        columns: list[tuple[tuple[str, ...], list[str]]] = [
            (called, [f"{record.value:.2f}" if record else "" for record in records])
        ]
        for i, end in enumerate(("low", "high") if intervals else ()):
            ends = [
                f"{record.interval[i]:.2f}" if record and record.interval else ""
                for record in records
            ]
            columns.append(((*called, end), ends))
        spans = [_ends(span_of(record)) for record in records]
        if ranges and any(spans):
            columns.append(((*called, "range"), spans))
        for name, cells in columns:
            for line, cell in zip(lines, ("\n".join(name), *cells), strict=True):
                line.append(cell)
    return lines


def low_mark(measure: Measure) -> str:
    """What is said of a row in which the lower number is the better one."""
    return " (lower is better)" if lower_is_better(measure.protocol, measure.metric) else ""


def list_of(entries: Sequence[Entry]) -> Cells:
    """Every record in a line: when, of what, how much, and what tells it from others."""
    lines = [["date", "run", "network", "metric", "value", "95 % interval", "settings that differ"]]
    known, columns = [_settings(entry) for entry in entries], _columns(entries)
    for entry, own in zip(entries, known, strict=True):
        record = entry.record
        others = [
            settings
            for other, settings in zip(entries, known, strict=True)
            if other.record.metric == record.metric
        ]
        # Weights of a run that was trained on tell all its records apart, also those of different
        # metrics.
        several = columns[entry.subject, entry.version] != entry.subject
        always = ("weights", "step") if several else ()
        differing = [key for key in own if key in always or _differs(key, others)]
        span = span_of(record)
        spread = _ends(record.interval)
        lines.append(
            [
                record.when or "in training",
                *entry.subject,
                entry.metric,
                f"{record.value:.2f}",
                f"range {_ends(span)}" if span and not record.interval else spread,
                " ".join(f"{key}={own[key]}" for key in differing),
            ]
        )
    return lines


def _differs(key: str, settings: Iterable[dict[str, Any]]) -> bool:
    return len({str(some[key]) for some in settings if key in some}) > 1


def _settings(entry: Entry) -> dict[str, Any]:
    """Everything that may differ between two records of a metric."""
    record = entry.record
    about = {
        "mode": entry.mode,
        "data": entry.data,
        "train": record.num_train,
        "val": record.num_val,
        "seed": record.seed,
        "step": record.step,
        "weights": entry.weights,
        "chosen": record.chosen,
        "data_hash": str(record.data.get("val", ""))[:8],
    }
    return {
        **record.settings,
        **{key: value for key, value in about.items() if value not in (None, "")},
    }


def _ends(span: Sequence[float] | None) -> str:
    return "{:.2f} to {:.2f}".format(*span) if span else ""
