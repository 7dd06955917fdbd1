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
    apart, same = [], []
    for name, record in found.items():
        low, high = record.interval or (record.value, record.value)
        if low <= first.value <= high:
            same.append(TITLES[name] + (f" ({_span((low, high))})" if record.interval else ""))
        else:
            side = "above" if first.value > high else "below"
            apart.append(f"{abs(first.value - record.value):.1f} {side} {TITLES[name]}")
    said = [", ".join(apart), f"not told apart from {' and '.join(same)}" if same else ""]
    own_span = f" ({_span(first.interval)})" if first.interval else ""
    name = first.row or first.metric
    return f"{name}: {first.value:.1f}{own_span}, {numbers}: {'; '.join(filter(None, said))}"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"
