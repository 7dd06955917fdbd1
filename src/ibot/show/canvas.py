"""What pictures are put together from: images, lines and words on a sheet; PNG or SVG.

A sheet keeps what was placed on it, so that one layout gives pixels and vectors alike.
"""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ibot.errors import printable
from ibot.system.files import write_named

Color = tuple[int, int, int]
Format = Literal["png", "svg"]
Align = Literal["left", "middle", "right"]

INK, QUIET, PAPER = (31, 36, 48), (110, 118, 132), (255, 255, 255)
LETTER, SMALL, GAP, HEAD = 13, 12, 8, 20
"""Pixels of letters, of those of notes, between pictures, and of a line of words above one."""
_FINER = 4
"""Lines are drawn so many times larger, then reduced, to have smooth edges."""
_BEYOND_ASCII = "©«°±´·»"
"""Other letters that Pillow's own font has."""
_MOST_FINE = 2**25
"""Pixels that a layer of lines may have for that."""


@dataclass(frozen=True, slots=True)
class _Picture:
    x: float
    y: float
    pixels: NDArray[np.uint8]
    width: int
    height: int
    smooth: bool


@dataclass(frozen=True, slots=True)
class _Words:
    x: float
    y: float
    text: str
    size: float
    color: Color
    align: Align


@dataclass(frozen=True, slots=True)
class _Line:
    points: tuple[tuple[float, float], ...]
    color: Color
    width: float


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    height: float
    line: Color | None
    fill: Color | None
    thick: float


@dataclass(slots=True)
class Sheet:
    """A white page of whole pixels; (0, 0) is its upper left corner."""

    width: int
    height: int
    paper: Color = PAPER
    _placed: list[_Picture | _Words | _Line | _Box] = field(default_factory=list)

    def picture(
        self,
        x: float,
        y: float,
        pixels: NDArray[np.uint8],
        size: tuple[int, int] | None = None,
        smooth: bool = False,
    ) -> None:
        """Place uint8 [h, w, 3], resized to `size` (width, height) if that is given.

        smooth: interpolated, as photographs are; else each pixel stays a square.
        """
        width, height = size or (pixels.shape[1], pixels.shape[0])
        self._placed.append(_Picture(x, y, pixels, width, height, smooth))

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = LETTER,
        color: Color = INK,
        align: Align = "left",
    ) -> None:
        """One line of words whose letters begin at height `y`."""
        self._placed.append(_Words(x, y, text, size, color, align))

    def line(
        self, points: Sequence[tuple[float, float]], color: Color = INK, width: float = 1
    ) -> None:
        """A line through points (x, y)."""
        self._placed.append(_Line(tuple(points), color, width))

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        line: Color | None = None,
        fill: Color | None = None,
        thick: float = 1,
    ) -> None:
        """A rectangle, its line inside of it."""
        self._placed.append(_Box(x, y, width, height, line, fill, thick))

    def place(self, other: Sheet, x: float, y: float) -> None:
        """Put what another page holds on this one, its corner at (x, y)."""
        for one in other._placed:
            if isinstance(one, _Line):
                moved = tuple((left + x, top + y) for left, top in one.points)
                self._placed.append(replace(one, points=moved))
            else:
                self._placed.append(replace(one, x=one.x + x, y=one.y + y))

    def pixels(self) -> NDArray[np.uint8]:
        """The page, uint8 [height, width, 3]."""
        page = Image.new("RGB", (self.width, self.height), self.paper)
        lines: list[_Line] = []
        for one in self._placed:
            if isinstance(one, _Line):
                lines.append(one)
                continue
            _draw_lines(page, lines)
            lines = []
            if isinstance(one, _Picture):
                page.paste(_resized(one), (round(one.x), round(one.y)))
            elif isinstance(one, _Words):
                text = drawable(one.text)
                left = one.x - text_width(text, one.size) * _SHIFT[one.align]
                font = _font(one.size)
                ImageDraw.Draw(page).text((left, one.y), text, fill=one.color, font=font)
            else:
                corner = [one.x, one.y, one.x + one.width - 1, one.y + one.height - 1]
                ImageDraw.Draw(page).rectangle(
                    corner, fill=one.fill, outline=one.line, width=max(1, round(one.thick))
                )
        _draw_lines(page, lines)
        return np.asarray(page)

    def svg(self) -> str:
        """The page with its pictures inside, words and lines as vectors."""
        size = f'width="{self.width}" height="{self.height}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            f'viewBox="0 0 {self.width} {self.height}">',
            f'<rect {size} fill="{_hex(self.paper)}"/>',
            *map(_as_svg, self._placed),
            "</svg>\n",
        ]
        return "\n".join(parts)

    def save(self, path: Path) -> Path:
        """Write a PNG, or an SVG if the name ends so; whole or not at all. Returns the path.

        Raises UserError, or ResourceError of a full disk, where it cannot be written.
        """
        if path.suffix.lower() != ".svg":
            return save_png(path, self.pixels())
        write_named(path, lambda place: place.write_text(self.svg(), encoding="utf-8"), "--out")
        return path


_SHIFT: dict[Align, float] = {"left": 0.0, "middle": 0.5, "right": 1.0}
_ANCHOR = {"left": "start", "middle": "middle", "right": "end"}


def save_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write uint8 [h, w, 3], whole or not at all; folders above it are made. Returns the path.

    Raises as `Sheet.save`.
    """
    write_named(path, lambda place: Image.fromarray(pixels).save(place, format="PNG"), "--out")
    return path


def drawable(text: str) -> str:
    """What Pillow's own font can write of a text: on one line, without accents, letters that it
    lacks as '?'.
    """
    return "".join(map(_drawable, unicodedata.normalize("NFC", printable(text))))


def _drawable(letter: str) -> str:
    if letter.isascii() or letter in _BEYOND_ASCII:
        return letter
    plain = unicodedata.normalize("NFKD", letter)[0]
    return plain if plain.isascii() else "?"


def text_width(text: str, size: float = LETTER) -> float:
    """Pixels of a line of words."""
    return _font(size).getlength(drawable(text))


def fitted(text: str, width: float, size: float = LETTER) -> str:
    """The text, or as much of it as `width` pixels hold, its middle left out."""
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)  # letters that are kept
    while low < high:
        keep = (low + high + 1) // 2
        low, high = (keep, high) if text_width(_cut(text, keep), size) <= width else (low, keep - 1)
    return _cut(text, low) if low else ""


def _cut(text: str, keep: int) -> str:
    """A text without its middle, so that beginning and ending are seen."""
    tail = keep // 2
    return f"{text[: keep - tail]}...{text[len(text) - tail :] if tail else ''}"


@lru_cache(maxsize=16)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _resized(one: _Picture) -> Image.Image:
    picture = Image.fromarray(one.pixels)
    if picture.size == (one.width, one.height):
        return picture
    way = Image.Resampling.LANCZOS if one.smooth else Image.Resampling.NEAREST
    return picture.resize((one.width, one.height), way)


def _draw_lines(page: Image.Image, lines: Sequence[_Line]) -> None:
    """Lines in their order, with smooth edges; only the part of the page where they are."""
    if not lines:
        return
    points = np.array([point for line in lines for point in line.points])
    most = max(line.width for line in lines)
    left, top = (max(0, math.floor(side - most)) for side in points.min(0))
    right, bottom = (
        min(limit, math.ceil(side + most))
        for limit, side in zip(page.size, points.max(0), strict=True)
    )
    width, height = right - left, bottom - top
    if width < 1 or height < 1:
        return
    finer = _FINER if width * height * _FINER**2 <= _MOST_FINE else 1
    part = page.crop((left, top, right, bottom)).resize(
        (width * finer, height * finer), Image.Resampling.NEAREST
    )
    pen = ImageDraw.Draw(part)
    for line in lines:
        # Half a pixel: the middle of pixel 0 is at 0.5.
        places = [((x - left + 0.5) * finer, (y - top + 0.5) * finer) for x, y in line.points]
        pen.line(places, fill=line.color, width=max(1, round(line.width * finer)), joint="curve")
    page.paste(part.resize((width, height), Image.Resampling.BOX), (left, top))


def _as_svg(one: _Picture | _Words | _Line | _Box) -> str:
    if isinstance(one, _Picture):
        buffer = io.BytesIO()
        Image.fromarray(one.pixels).save(buffer, format="PNG")
        code = base64.b64encode(buffer.getvalue()).decode("ascii")
        way = "" if one.smooth else ' style="image-rendering:pixelated"'
        return (
            f'<image x="{one.x:g}" y="{one.y:g}" width="{one.width}" height="{one.height}" '
            f'preserveAspectRatio="none"{way} href="data:image/png;base64,{code}"/>'
        )
    if isinstance(one, _Words):
        font = f'font-family="Helvetica, Arial, sans-serif" font-size="{one.size:g}"'
        # Fonts differ: in any of them the words take the room for which they were laid out.
        length = text_width(one.text, one.size)
        room = f' textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs"' if length else ""
        # Vectors stand on their base line, about 0.95 of the size below where Pillow begins.
        return (
            f'<text x="{one.x:g}" y="{one.y + 0.95 * one.size:g}" {font} fill="{_hex(one.color)}" '
            f'text-anchor="{_ANCHOR[one.align]}"{room}>{escape(_clean(one.text))}</text>'
        )
    if isinstance(one, _Line):
        points = " ".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in one.points)
        return (
            f'<polyline points="{points}" fill="none" stroke="{_hex(one.color)}" '
            f'stroke-width="{one.width:g}" stroke-linejoin="round"/>'
        )
    inset = one.thick / 2 if one.line else 0.0
    line = f' stroke="{_hex(one.line)}" stroke-width="{one.thick:g}"' if one.line else ""
    fill = _hex(one.fill) if one.fill else "none"
    width, height = max(0.0, one.width - 2 * inset), max(0.0, one.height - 2 * inset)
    return (
        f'<rect x="{one.x + inset:g}" y="{one.y + inset:g}" width="{width:g}" '
        f'height="{height:g}" fill="{fill}"{line}/>'
    )


def _clean(text: str) -> str:
    """Letters that XML allows: names may hold any bytes."""
    return printable(text).encode("utf-8", "replace").decode("utf-8")


def _hex(color: Color) -> str:
    red, green, blue = color
    return f"#{red:02x}{green:02x}{blue:02x}"
