"""Curves as SVG inside of a page: small, sharp, and in the page's colours, light and dark.

Nothing is executed. A pointer that rests on a curve is told the values there; who hears the page is
told where each line begins and ends. Lines differ in dashes as well as in colour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ibot.report.history import Curve, Point, Series
from ibot.report.html import escaped

WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 24
"""Margins of the picture around the lines, in its own units: about pixels."""
HOVERED = 40
"""Places at which a resting pointer is told the values."""
MARKED = 30
"""Points of a line up to which each has a dot."""
DENSE = 150
"""Points from which a line is thin, as it may be noise."""
LOGARITHMIC = 100.0
"""Largest over middle value from which an axis is logarithmic: of gradients that explode."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was said of a moment of the training."""

    images: float
    """Seen by then."""
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to places."""

    low: float
    high: float
    start: float
    """Place of `low`."""
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, at the end of the axis for those beyond."""
        value = min(max(value, self.low), self.high)
        low, high, here = (self._scaled(number) for number in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, most: int) -> list[float]:
        """Round values within the axis, about `most`."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**power for power in powers[:: max(1, len(powers) // most)]]
        step = round_step((self.high - self.low) / most)
        while len(found := self._multiples(step)) < 2:
            step = round_step(0.4 * step)
        return found

    def _multiples(self, step: float) -> list[float]:
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def chart(curve: Curve, *, end: float, marks: Sequence[Mark] = ()) -> str:
    """A curve as an <svg> element.

    Args:
        curve: what to show.
        end: images seen at the right end of the axis.
        marks: moments to be marked at the upper edge.
    """
    x = Axis(0.0, max(end, 1.0), LEFT, WIDTH - RIGHT)
    y = value_axis(curve)
    about = escaped(f"{curve.title}{_unit(curve)}, against images seen")
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{about}">\n<desc>{escaped(described(curve))}</desc>\n',
        *_grid(x, y),
        *(_marked(mark, x) for mark in marks),
        *_level(curve, y, below=bool(marks)),
        *(part for number, line in enumerate(curve.series) for part in _line(number, line, x, y)),
        *_hovered(curve, x),
        *(_flag(mark, x) for mark in marks),
        "</svg>\n",
    ]
    return "".join(parts)


def value_axis(curve: Curve) -> Axis:
    """The axis of values: from 0 where that costs little room, logarithmic for explosions."""
    values = [value for line in curve.series for _, value in line.points]
    values += [end for line in curve.series for pair in line.spread if pair for end in pair]
    middle = sorted(values)[len(values) // 2]
    if min(values) > 0 and max(values) > LOGARITHMIC * middle:
        return Axis(min(values) / 1.5, max(values) * 1.5, HEIGHT - BOTTOM, TOP, log=True)
    if curve.level is not None:  # what is near the level shall look so
        values += [curve.level, 0.9 * curve.level]
    low, high = min(values), max(values)
    if 0 <= low < 0.4 * high:
        low = 0.0
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low - room if low else 0.0, high + room, HEIGHT - BOTTOM, TOP)


def described(curve: Curve) -> str:
    """In words, where each line begins and ends."""
    said = []
    for line in curve.series:
        (_, first), (_, last) = line.points[0], line.points[-1]
        low, high = (pick(value for _, value in line.points) for pick in (min, max))
        said.append(
            f"{line.name}: from {brief(first)} to {brief(last)}, between {brief(low)} and "
            f"{brief(high)}"
        )
    if curve.level is not None:
        said.append(f"{curve.level_name or 'level'}: {brief(curve.level)}")
    return "; ".join(said)


def key(number: int) -> str:
    """A short piece of the line with this number of its curve, for a legend."""
    return (
        f'<svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
        f'<path class="line l{number + 1}" d="M1 4H21"/></svg>'
    )


def brief(value: float) -> str:
    """A number with about three digits."""
    size = abs(value)
    if size >= 1e6:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10 or value == 0:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.1e}"


def count_of(images: float) -> str:
    """A number of images for an axis: 20k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if images >= size:
            return f"{images / size:.3g}{letter}"
    return f"{images:.0f}"


def round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= step * 0.999)


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    ticks = y.ticks(4)
    for value in ticks:
        place = y(value)
        yield f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{place + 3.5:.1f}" text-anchor="end">'
        yield f"{brief(value) if y.log else _tick(value, ticks)}</text>\n"
    yield f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>\n'
    for images in x.ticks(5):
        place = x(images)
        anchor = "end" if place > WIDTH - RIGHT - 8 else "middle"
        yield f'<text x="{place:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">'
        yield f"{count_of(images)}</text>\n"


def _tick(value: float, ticks: Sequence[float]) -> str:
    """A value of an even axis with the digits that tell it from its neighbours."""
    step = ticks[1] - ticks[0]
    digits = -math.floor(math.log10(step) + 1e-9)
    digits += round(step * 10.0**digits, 6) != round(step * 10.0**digits)  # 2.5
    if step >= 1e-4 and abs(value) < 1e6:
        return f"{value:,.{max(0, digits)}f}"
    digits += math.floor(math.log10(abs(value))) if value else 0
    shown = f"{value:.{max(0, digits)}e}" if value else "0"
    return re.sub(r"e([+-])0*", lambda found: f"e{found[1].strip('+')}", shown)


def _level(curve: Curve, y: Axis, *, below: bool) -> Iterator[str]:
    """The value to compare with; below: where flags are above, its name goes out of their way."""
    if curve.level is None or not y.low <= curve.level <= y.high:
        return
    place = y(curve.level)
    yield f'<path class="level" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>'
    base = place + 12 if below and place < TOP + 14 else place - 4
    yield f'<text class="name" x="{WIDTH - RIGHT}" y="{base:.1f}" text-anchor="end">'
    yield f"{escaped(curve.level_name)}</text>\n"


def _line(number: int, line: Series, x: Axis, y: Axis) -> Iterator[str]:
    """Interval, line and dots."""
    known = [(point, ends) for point, ends in zip(line.points, line.spread, strict=False) if ends]
    if len(known) > 1:
        low = [(images, ends[0]) for (images, _), ends in known]
        high = [(images, ends[1]) for (images, _), ends in known]
        yield f'<path class="spread l{number + 1}" d="{_path([*low, *high[::-1]], x, y)}Z"/>\n'
    elif known:
        (images, _), (low, high) = known[0]
        bar = _path([(images, low), (images, high)], x, y)
        yield f'<path class="line l{number + 1}" d="{bar}"/>\n'
    fine = " fine" if len(line.points) > DENSE else ""
    yield f'<path class="line l{number + 1}{fine}" d="{_path(line.points, x, y)}"/>\n'
    dots = line.points if len(line.points) <= MARKED else line.points[-1:]
    for images, value in dots:
        yield f'<circle class="dot l{number + 1}" cx="{x(images):.1f}" cy="{y(value):.1f}" r="2"/>'
    yield "\n"


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    places = (f"{x(images):.1f} {y(value):.1f}" for images, value in points)
    return "M" + "L".join(places)


def _hovered(curve: Curve, x: Axis) -> Iterator[str]:
    """Stripes that tell the values at a place, each around a point of the longest line."""
    longest = max(curve.series, key=lambda line: len(line.points)).points
    chosen = longest[:: max(1, math.ceil(len(longest) / HOVERED))]
    if longest[-1] not in chosen:
        chosen = [*chosen, longest[-1]]
    places = [x(images) for images, _ in chosen]
    middles = [(before + after) / 2 for before, after in pairwise(places)]
    starts, ends = [LEFT, *middles], [*middles, WIDTH - RIGHT]
    for (images, _), place, start, end in zip(chosen, places, starts, ends, strict=True):
        told = "\n".join(_told(line, images) for line in curve.series)
        text = escaped(f"{images:,.0f} images seen") + "\n" + told
        yield (
            f'<g class="at"><title>{text}</title><rect x="{start:.1f}" y="{TOP}" '
            f'width="{max(end - start, 0.1):.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
            f'<path d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/></g>\n'
        )


def _told(line: Series, images: float) -> str:
    """Name, value and interval of a line at the point nearest to a number of images."""
    nearest = min(range(len(line.points)), key=lambda i: abs(line.points[i][0] - images))
    ends = line.spread[nearest] if nearest < len(line.spread) else None
    spread = f" ({brief(ends[0])} to {brief(ends[1])})" if ends else ""
    return escaped(f"{line.name}: {brief(line.points[nearest][1])}{spread}")


def _marked(mark: Mark, x: Axis) -> str:
    """A dotted line at a moment; it lies below the curves."""
    return f'<path class="mark" d="M{x(mark.images):.1f} {TOP}V{HEIGHT - BOTTOM}"/>\n'


def _flag(mark: Mark, x: Axis) -> str:
    """The flag of that line, which tells what was said."""
    return (
        f'<g class="flag"><title>{escaped(mark.text)}</title>'
        f'<path d="M{x(mark.images) - 4:.1f} {TOP - 9}h8l-4 8z"/></g>\n'
    )


def band(marks: Sequence[Mark], end: float) -> str:
    """A run as a line with the flags of what was said of it, as an <svg> element."""
    x = Axis(0.0, max(end, 1.0), LEFT, WIDTH - RIGHT)
    about = escaped(f"{len(marks)} moments between 0 and {end:,.0f} images seen")
    return (
        f'<svg class="chart band" viewBox="0 0 {WIDTH} 34" role="img" aria-label="{about}">'
        f'<path class="axis" d="M{LEFT} {TOP}H{WIDTH - RIGHT}"/>'
        f"{''.join(_flag(mark, x) for mark in marks)}"
        f'<text x="{LEFT}" y="{TOP + 14}">0</text><text x="{WIDTH - RIGHT}" y="{TOP + 14}" '
        f'text-anchor="end">{count_of(end)}</text></svg>\n'
    )


def _unit(curve: Curve) -> str:
    return f", {curve.unit}" if curve.unit else ""
