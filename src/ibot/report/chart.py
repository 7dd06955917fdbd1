"""Results of several runs as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot.errors import MissingExtra
from ibot.report.table import Table
from ibot.show.training import ACCENT, INK, QUIET
from ibot.words import encodable

BAR_INCHES = 0.24
"""Height of a bar with its space."""
NAME_LETTERS = 40
"""The end of a longer name is shown: runs differ there."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One number."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    """95 % interval."""


def bars_of(table: Table) -> dict[str, list[Bar]]:
    """A group of bars for each row of a table, by its title."""
    several = len({network for _, network, *_ in table.networks}) > 1
    groups = {}
    for row, title in table.rows.items():
        groups[", ".join(title)] = bars = []
        for column in table.networks:
            if (record := table.cells.get((row, column))) is not None:
                run, network, *version = column
                about = ", ".join([network, *version] if several else version)
                name = encodable(f"{run} ({about})" if about else run)
                bars.append(Bar(name, record.value, record.interval))
    return groups


def results_picture(groups: Mapping[str, Sequence[Bar]], out: Path) -> None:
    """Write a PNG with a group of bars for each metric, and 95 % intervals where they are known.

    Args:
        groups: title -> bars, from top to bottom.
        out: the file to write.

    Raises:
        MissingExtra: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        import matplotlib as mpl

        mpl.use("agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingExtra("matplotlib", "show") from None
    lines = sum(len(bars) + 2 for bars in groups.values())
    height = BAR_INCHES * lines + 0.8
    figure, axis = plt.subplots(
        figsize=(8, height), dpi=130, facecolor="white", layout="constrained"
    )
    places, names, place = [], [], 0.0
    for title, bars in groups.items():
        # A dollar sign would begin a formula.
        text = title.replace("$", r"\$")
        axis.text(0, place, text, fontsize=9, color=INK, fontweight="bold", va="center")
        for bar in bars:
            place += 1
            _draw(axis, place, bar)
            places.append(place)
            names.append(bar.name[-NAME_LETTERS:].replace("$", r"\$"))
        place += 2
    axis.set_yticks(places, names)
    axis.set_ylim(place - 1, -1)
    axis.set_xlabel("score; lines: 95 % interval", fontsize=8, color=INK)
    axis.tick_params(labelsize=8, colors=INK, length=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.margins(x=0.1)
    try:
        figure.savefig(out, format="png")
    finally:
        plt.close(figure)


def _draw(axis: Any, place: float, bar: Bar) -> None:
    axis.barh(place, bar.value, height=0.72, color=ACCENT)
    end = max(bar.value, 0.0)
    if bar.interval is not None:
        low, high = bar.interval
        axis.hlines(place, low, high, color=INK, linewidth=1.2)
        axis.vlines((low, high), place - 0.18, place + 0.18, color=INK, linewidth=1.2)
        end = max(end, high)
    style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": QUIET}
    axis.annotate(f"{bar.value:.1f}", (end, place), (4, 0), **style)
