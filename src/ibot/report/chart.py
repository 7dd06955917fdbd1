"""Results of several runs as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from ibot.report.names import brief_names
from ibot.report.table import Table, low_mark
from ibot.show.plotting import pyplot
from ibot.show.training import ACCENT, INK, QUIET
from ibot.words import encodable

NAME_LETTERS = 28
"""A longer title of a row takes another line."""
BAR_INCHES = 0.2
"""Height of a bar with its space."""
COLOURS = (ACCENT, "#d1602b", "#3a9a5b", "#8456b8", "#c9a227", "#3aa6b9", "#b8437a", "#6b7a2c")
"""Of runs; more of them take the same ones again."""
GREYS = ("#9aa1ae", "#b9bec8", "#d5d8de")
"""Of what has learnt nothing."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One number."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    """95 % interval."""
    colour: str = ACCENT


Panel = dict[str, list[Bar]]
"""Bars of each row, by its title."""


def panels_of(table: Table) -> dict[str, Panel]:
    """A panel for each protocol, errors apart from scores, by its title; a colour for each run."""
    names = {column: encodable(", ".join(name)) for column, name in brief_names(table).items()}
    networks = [column for column in table.networks if column not in table.baselines]
    plain = [column for column in table.networks if column in table.baselines]
    colours = dict(zip(networks, cycle(COLOURS), strict=False))
    colours |= dict(zip(plain, cycle(GREYS), strict=False))
    panels: dict[str, Panel] = {}
    for row, (protocol, *title) in table.rows.items():
        bars = [
            Bar(names[column], record.value, record.interval, colours[column])
            for column in table.networks
            if (record := table.cells.get((row, column))) is not None
        ]
        panels.setdefault(protocol + low_mark(row), {})[", ".join(title)] = bars
    return panels


def results_picture(panels: Mapping[str, Panel], out: Path) -> None:
    """Write a PNG with a panel for each protocol, and 95 % intervals where they are known.

    Args:
        panels: by title, two beside each other.
        out: the file to write.

    Raises:
        MissingExtra: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    plt = pyplot()
    columns = 1 if len(panels) == 1 else 2
    titles = list(panels)
    pairs = [titles[i : i + columns] for i in range(0, len(titles), columns)]
    lines = [max(map(_lines, (panels[title] for title in pair))) for pair in pairs]
    height = sum(BAR_INCHES * count + 0.7 for count in lines) + 0.6
    figure, axes = plt.subplots(
        len(pairs),
        columns,
        figsize=(5.5 * columns, height),
        dpi=110,
        facecolor="white",
        layout="constrained",
        squeeze=False,
        height_ratios=[count + 3 for count in lines],
    )
    try:
        for axis in axes.flat[len(titles) :]:
            axis.axis("off")
        for i, title in enumerate(titles):
            _draw_panel(axes.flat[i], title, panels[title], lines[i // columns])
        _name_colours(figure, panels)
        figure.savefig(out, format="png")
    finally:
        plt.close(figure)


def _lines(panel: Panel) -> int:
    return sum(len(bars) + 1 for bars in panel.values())


def _draw_panel(axis: Any, title: str, panel: Panel, lines: int) -> None:
    """Bars of a protocol, a group for each row, from top to bottom; `lines`: those of the higher
    of two panels side by side.
    """
    places, names, place = [], [], 0.0
    for name, bars in panel.items():
        places.append(place + (len(bars) - 1) / 2)
        # A dollar sign would begin a formula.
        names.append(encodable(textwrap.fill(name, NAME_LETTERS)).replace("$", r"\$"))
        for bar in bars:
            _draw(axis, place, bar)
            place += 1
        place += 1
    axis.set_title(title.replace("$", r"\$"), loc="left", fontsize=9, color=INK, weight="bold")
    axis.set_yticks(places, names)
    axis.set_ylim(lines - 1, -1)
    axis.tick_params(labelsize=8, colors=INK, length=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.margins(x=0.14)


def _name_colours(figure: Any, panels: Mapping[str, Panel]) -> None:
    """Which colour is which run, above all panels."""
    from matplotlib.patches import Patch

    bars = (bar for panel in panels.values() for row in panel.values() for bar in row)
    colours = {bar.name: bar.colour for bar in bars}
    figure.legend(
        handles=[Patch(color=colour) for colour in colours.values()],
        labels=[name.replace("$", r"\$") for name in colours],
        loc="outside upper left",
        ncols=min(4, len(colours)),
        title="lines: 95 % interval",
        title_fontsize=8,
        fontsize=8,
        frameon=False,
        alignment="left",
    )


def _draw(axis: Any, place: float, bar: Bar) -> None:
    axis.barh(place, bar.value, height=0.8, color=bar.colour)
    end = max(bar.value, 0.0)
    if bar.interval is not None:
        low, high = bar.interval
        axis.hlines(place, low, high, color=INK, linewidth=1.0)
        end = max(end, high)
    style = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": QUIET}
    axis.annotate(f"{bar.value:.1f}", (end, place), (4, 0), **style)
