"""What a network gained over what has learnt nothing, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ibot.types import ResultRecord

TITLES = {"random": "random start", "pixels": "pixels", "colours": "colours"}
"""What the baselines are called among people."""

FEWEST = 6
"""Images that one network has right and another wrong, none the other way round, from which on that
is no chance: at 5, a sign test gives 6 %."""


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


def gained(own: Sequence[ResultRecord], others: Sequence[ResultRecord], row: str = "") -> str:
    """One line on `row`, else the first: the network's number beside those of `others`.

    Points are per cent of the images or what else the evaluation counts; `sign` says which
    differences count. Empty without baselines.
    """
    chosen = next((i for i, record in enumerate(own) if row and record.row == row), 0)
    found = beside(own, others, chosen) if own else {}
    if not found:
        return ""
    first = own[chosen]
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
    with the other's interval alone it would be 5 to 17 %. Intervals of few images are too narrow,
    of none right or all right they have no width: less than `FEWEST` images tell nothing.
    """
    if _too_few(own, other):
        return 0
    gap, error = own.value - other.value, _error(own, other)
    return 0 if abs(gap) <= error else 1 if gap > 0 else -1


def images_needed(own: ResultRecord, other: ResultRecord) -> int:
    """Validation images that would tell as large a difference apart, by two figures; 0 where there
    is none, or where neither has an interval. An interval halves with four times the images.
    """
    gap, error = own.value - other.value, _error(own, other)
    if not gap or not error:
        return 0
    needed = own.num_val * (error / gap) ** 2
    unit = 10 ** max(0, math.floor(math.log10(max(needed, 1))) - 1)
    return unit * math.ceil(needed / unit)


def _too_few(own: ResultRecord, other: ResultRecord) -> bool:
    """Whether so few images make the difference that it may be chance, where images are right or
    wrong; of other measures, whether there are so few images at all.
    """
    count = own.num_val
    if count and own.metric.endswith("_top1"):
        return abs(own.value - other.value) * count < 100 * FEWEST - 1e-6
    return 0 < count < FEWEST


def _error(own: ResultRecord, other: ResultRecord) -> float:
    return math.hypot(_half(own), _half(other))


def _half(record: ResultRecord) -> float:
    return (record.interval[1] - record.interval[0]) / 2 if record.interval else 0.0
