"""The parts of a run's report below its summary, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ibot.report.events import Judged
from ibot.report.history import Curve, interval_of
from ibot.report.html import data_uri, escaped, name
from ibot.report.pictures import Gallery, Shown
from ibot.report.story import Story
from ibot.report.svg import Axis, Mark, band, brief, chart, key
from ibot.report.table import side_by_side
from ibot.words import counted_in_thousands

if TYPE_CHECKING:
    from ibot.report.seen import Seen

LATER = ("agreement", "koleo", "gradients", "lr", "momentum", "temperatures", "weight_decay")
MACHINE = ("speed", "wait", "stages")
"""Curves that are of use when something is wrong; in a part of their own."""
TOLD = 4
"""Times that a verdict is told with its evidence."""


def curves(told: Story) -> Iterator[str]:
    """Curves: what was measured and learnt, then schedules and the machine."""
    if not told.curves:
        return
    lines = [line for curve in told.curves for line in curve.series]
    end = max(images for line in lines for images, _ in line.points)
    later = LATER + MACHINE
    how = "Against images seen; rest the pointer on a curve for its values."
    parts = (
        ("Curves", how, [curve for curve in told.curves if curve.id not in later], _marks(told)),
        ("Schedules, gradients, speed", _pace(told), [c for c in told.curves if c.id in later], []),
    )
    for title, about, chosen, marked in parts:
        if chosen:
            yield f"<section>\n<h2>{title}</h2>\n"
            yield f'<p class="quiet">{about}</p>\n' if about else ""
            yield '<div class="curves">\n'
            for curve in chosen:
                yield from _curve(curve, end, marked)
            yield "</div>\n</section>\n"


def _pace(told: Story) -> str:
    return f"What set the pace: {escaped(told.pace)}." if told.pace else ""


def _marks(told: Story) -> list[Mark]:
    return [Mark(one.images, f"step {one.step}: {one.kind}") for one in told.verdicts]


def _curve(curve: Curve, end: float, marks: Sequence[Mark]) -> Iterator[str]:
    unit = f" <small>{escaped(curve.unit)}</small>" if curve.unit else ""
    yield f"<figure>\n<h3>{escaped(curve.title)}{unit}</h3>\n"
    yield '<ul class="legend">'
    for number_, line in enumerate(curve.series):
        last = line.points[-1][1]
        yield f"<li>{key(number_)}{escaped(line.name)} <b>{brief(last)}</b></li>"
    yield f"</ul>\n{chart(curve, end=end, marks=marks)}</figure>\n"


def about_verdicts(told: Story, *, few: bool = False) -> Iterator[str]:
    """What the health log said, when, by what evidence, and what it advised.

    few: it had too few reports to judge by.
    """
    if not told.metrics.images:
        return
    yield "<section>\n<h2>Verdicts of the health log</h2>\n"
    if not told.verdicts:
        reports = counted_in_thousands(len(told.metrics.images), "report")
        sign = "no sign of collapse, of a lost rank, of divergence or of waiting for images"
        too_few = "a failure is named when it lasts, after the learning rate has warmed up"
        yield f"<p>None, in {reports}: {too_few if few else sign}.</p>\n</section>\n"
        return
    yield band(_marks(told), told.images_seen)
    yield '<ul class="verdicts">\n'
    for kind, found in _by_kind(told.verdicts).items():
        yield f"<li><p><strong>{escaped(kind)}</strong></p>\n"
        shown = found if len(found) <= TOLD else [*found[: TOLD - 1], found[-1]]
        for verdict in shown:
            yield f"<p>{escaped(verdict.evidence)} <small>at step {verdict.step:,}, "
            yield f"{verdict.images:,.0f} images seen</small></p>\n"
        if len(found) > TOLD:
            yield f"<p><small>said {len(found)} times; the first {TOLD - 1} and the last are shown"
            yield "</small></p>\n"
        yield f'<p class="quiet">{escaped(found[-1].advice)}.</p></li>\n'
    yield "</ul>\n</section>\n"


def _by_kind(verdicts: Iterable[Judged]) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.kind, []).append(verdict)
    return found


def about_results(told: Story) -> Iterator[str]:
    """What was measured, with intervals; during the training too."""
    yield "<section>\n<h2>Results</h2>\n"
    if told.unread:
        yield f"<p>Not all can be read: {escaped(told.unread)}.</p>\n"
    if not told.entries and not told.unread:
        yield "<p>Nothing has been measured.</p>\n"
    if told.entries:
        yield from _table(told)
    if len({record.step for record in told.records}) > 1:
        yield "<details><summary>All that was measured during the training</summary>\n"
        yield from _during(told)
        yield "</details>\n"
    yield "</section>\n"


def _table(told: Story) -> Iterator[str]:
    """The last value of each row and network."""
    table = side_by_side(told.entries)
    several = len(table.networks) > 1
    cells = [
        (", ".join(title), ", ".join(column[1:]), record)
        for row, title in table.rows.items()
        for column in table.networks
        if (record := table.cells.get((row, column))) is not None
    ]
    values = [record.value for _, _, record in cells]
    x = Axis(min(0.0, *values, 0.0), max(100.0, *values), 2, 174)
    network = "<th>network</th>" if several else ""
    yield '<div class="scroll"><table>\n<thead><tr><th>what</th>'
    yield f'{network}<th class="number">value</th><th>95 % interval</th><th></th><th>when</th>'
    yield "</tr></thead>\n<tbody>\n"
    for title, network, record in cells:
        ends = interval_of(record)
        when = record.when.replace("T", " ") if record.when else f"at step {record.step}"
        yield f"<tr><th>{escaped(title)}</th>"
        yield f"<td>{escaped(network)}</td>" if several else ""
        yield f'<td class="number value">{record.value:.2f}</td>'
        yield f'<td class="number">{_ends(ends)}</td><td>{_bar(record.value, ends, x)}</td>'
        yield f'<td class="quiet">{escaped(when)}</td></tr>\n'
    yield "</tbody></table></div>\n"


def _bar(value: float, ends: tuple[float, float] | None, x: Axis) -> str:
    """A value and its interval on a line."""
    bar = f'<path d="M{x(ends[0]):.1f} 7H{x(ends[1]):.1f}"/>' if ends else ""
    return (
        f'<svg class="interval" viewBox="0 0 176 14" aria-hidden="true">'
        f'<path class="grid" d="M2 7H174M2 4V10M174 4V10"/>{bar}'
        f'<circle cx="{x(value):.1f}" cy="7" r="3"/></svg>'
    )


def _during(told: Story) -> Iterator[str]:
    """A line for each step at which the training measured something."""
    metrics = list(dict.fromkeys(record.metric for record in told.records))
    by_place = {(record.step, record.metric): record for record in told.records}
    titles = "".join(f'<th class="number">{escaped(m)}</th><th>95 % interval</th>' for m in metrics)
    yield '<div class="scroll"><table>\n<thead><tr><th class="number">step</th>'
    yield f'<th class="number">images seen</th>{titles}</tr></thead>\n<tbody>\n'
    for step in sorted({record.step or 0 for record in told.records}):
        yield f'<tr><th class="number">{step:,}</th>'
        yield f'<td class="number">{step * told.batch:,}</td>'
        for metric in metrics:
            record = by_place.get((step, metric))
            value = f"{record.value:.2f}" if record else ""
            ends = _ends(interval_of(record)) if record else ""
            yield f'<td class="number">{value}</td><td>{ends}</td>'
        yield "</tr>\n"
    yield "</tbody></table></div>\n"


def _ends(ends: tuple[float, float] | None) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""


def about_pictures(gallery: Gallery, seen: Seen | None, note: str) -> Iterator[str]:
    """What the network makes of a few images, the pictures of the run, and what is missing."""
    if not (gallery.shown or seen or note):
        return
    yield "<section>\n<h2>Pictures</h2>\n"
    if seen:
        yield f'<p class="quiet">{escaped(seen.words)}</p>\n<div class="seen">\n'
        for title, row in seen.rows:
            yield '<figure><div class="row">'
            yield from map(_picture, row)
            yield f"</div><figcaption>{name(title)}</figcaption></figure>\n"
        yield "</div>\n"
    if gallery.shown:
        yield '<div class="shown">\n'
        for shown in gallery.shown:
            yield f"<figure>{_picture(shown)}<figcaption>{name(shown.title)}</figcaption>"
            yield "</figure>\n"
        yield "</div>\n"
    if gallery.left_out:
        yield f'<p class="quiet">{gallery.left_out} more are left out, so that the page stays '
        yield "small; they lie in the folder of the run.</p>\n"
    if note:
        yield f'<p class="quiet">{escaped(note)}</p>\n'
    yield "</section>\n"


def _picture(shown: Shown) -> str:
    width, height = shown.size
    return (
        f'<img src="{data_uri(shown.content, "image/jpeg")}" alt="{escaped(shown.title)}" '
        f'width="{width}" height="{height}">'
    )
