"""What a network gained over what has learnt nothing, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ibot.types import ResultRecord

TITLES = {"random": "random start", "pixels": "pixels", "colours": "colours"}
"""What the baselines are called among people."""


def beside(
    own: Sequence[ResultRecord], others: Sequence[ResultRecord], i: int
) -> dict[str, ResultRecord]:
    """The records that belong to the i-th of a network's, by baseline.

    own: of one evaluation. others: of its baselines, which report the same rows in the same order;
    rows may be named after what was chosen.
    """
    found = {}
    for name in TITLES:
        rows = [record for record in others if record.baseline == name]
        if len(rows) != len(own):
            same = own[i].row, own[i].metric
            rows = [record for record in rows if (record.row, record.metric) == same]
            found |= {name: rows[0]} if rows else {}
        else:
            found[name] = rows[i]
    return found


def gained(own: Sequence[ResultRecord], others: Sequence[ResultRecord]) -> str:
    """One line on the first row: the network's number and what it is beside those of `others`.

    It is called more or less than a baseline where it lies outside of that one's interval, in per
    cent of the images or what else the evaluation counts. Empty without baselines.
    """
    found = beside(own, others, 0) if own else {}
    if not found:
        return ""
    first = own[0]
    numbers = ", ".join(f"{TITLES[name]} {record.value:.1f}" for name, record in found.items())
    said = [_compared(first.value, TITLES[name], record) for name, record in found.items()]
    return f"{first.row or first.metric}: {_number(first)}, {numbers}: {'; '.join(said)}"


def _number(record: ResultRecord) -> str:
    span = f" ({_span(record.interval)})" if record.interval else ""
    return f"{record.value:.1f}{span}"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def _compared(value: float, title: str, record: ResultRecord) -> str:
    low, high = record.interval or (record.value, record.value)
    difference = f"{abs(value - record.value):.1f}"
    if value > high:
        return f"{difference} above {title}"
    if value < low:
        return f"{difference} below {title}"
    span = f", whose interval is {_span((low, high))}" if record.interval else ""
    return f"not told apart from {title}{span}"
