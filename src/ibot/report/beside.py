"""Columns of what has learnt nothing, beside those of networks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ibot.eval.gained import TITLES
from ibot.eval.registry import EVALUATIONS
from ibot.report.measure import Measure, measure_of
from ibot.report.records import Entry
from ibot.types import ResultRecord

Column = tuple[str, ...]


def baseline_cells(
    entries: Sequence[Entry], rows: Collection[Measure]
) -> dict[tuple[Measure, Column], ResultRecord]:
    """Records of baselines by row and column; those of rows that no network has are left out.

    Runs whose baselines have the same numbers share a column, as all of one architecture and one
    set of images do; others have one each, named after the run.
    """
    found: dict[tuple[Measure, Column], ResultRecord] = {}
    for name, called in TITLES.items():
        shares: list[tuple[str, dict[Measure, ResultRecord]]] = []
        own = [entry for entry in entries if entry.record.baseline == name]
        for run in dict.fromkeys(entry.run for entry in own):
            numbers = {_row(entry): entry.record for entry in own if entry.run == run}
            numbers = {row: record for row, record in numbers.items() if row in rows}
            same = next((known for _, known in shares if _agree(known, numbers)), None)
            if same is not None:
                same |= numbers
            elif numbers:
                shares.append((run, numbers))
        for run, numbers in shares:
            column = (called,) if len(shares) == 1 else (called, f"of {run}")
            found |= {(row, column): record for row, record in numbers.items()}
    return found


def _row(entry: Entry) -> Measure:
    """The row of the network beside which a baseline stands."""
    record, known = entry.record, EVALUATIONS.get(entry.record.protocol)
    if known is not None and known.beside.own_pixels and record.baseline == "pixels":
        # Only by this setting does the evaluation look at pixels.
        features = {"features": known.settings.features}
        record = replace(record, settings={**record.settings, **features})
    return measure_of(replace(entry, record=record))


def _agree(first: dict[Measure, ResultRecord], second: dict[Measure, ResultRecord]) -> bool:
    return all(record.value == first[row].value for row, record in second.items() if row in first)
