"""What a network gained over what has learnt nothing, in words."""

from __future__ import annotations

import math
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

    Points are per cent of the images or what else the evaluation counts; `sign` says which
    differences count. Empty without baselines.
    """
    found = beside(own, others, 0) if own else {}
    if not found:
        return ""
    first = own[0]
    numbers = ", ".join(f"{TITLES[name]} {record.value:.1f}" for name, record in found.items())
    apart, same = [], []
    for name, record in found.items():
        side = sign(first, record)
        if side == 0:
            span = f" ({_span(record.interval)})" if record.interval else ""
            same.append(TITLES[name] + span)
        else:
            difference = f"{abs(first.value - record.value):.1f}"
            apart.append(f"{difference} {'above' if side > 0 else 'below'} {TITLES[name]}")
    said = [", ".join(apart), f"not told apart from {' and '.join(same)}" if same else ""]
    own_span = f" ({_span(first.interval)})" if first.interval else ""
    name = first.row or first.metric
    return f"{name}: {first.value:.1f}{own_span}, {numbers}: {'; '.join(filter(None, said))}"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def sign(own: ResultRecord, other: ResultRecord) -> int:
    """Whether a number is above (1) or below (-1) another, or not told apart from it (0) by as many
    images as there are.

    Half intervals of both are added as those of different images. They are the same ones, so that
    it is rather too careful: of 4,000 simulated pairs of equals, 0.7 to 5 % are told apart, and
    with the other's interval alone it would be 5 to 17 %.
    """
    gap, error = own.value - other.value, math.hypot(_half(own), _half(other))
    return 0 if abs(gap) <= error else 1 if gap > 0 else -1


def _half(record: ResultRecord) -> float:
    return (record.interval[1] - record.interval[0]) / 2 if record.interval else 0.0
