"""Where pictures stand on a sheet, and how their files are called."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.show.canvas import (
    GAP,
    HEAD,
    INK,
    LETTER,
    QUIET,
    SMALL,
    Color,
    Sheet,
    fitted,
    text_width,
)

MOST_WIDE, LEAST_WIDE = 4, 48
"""How many times as wide as high a picture in a strip may be; pixels of a column at least."""
HIGH, THUMB = 240, 160
"""Pixels of the height of pictures in a strip, and of the longer side of those in a contact
sheet."""
HIDDEN = np.array([209, 212, 219], np.uint8)
"""Colour of patches that are hidden."""
LINE = LETTER + 4
"""Pixels from one line of words to the next."""
SWATCH = 10
"""Pixels of the square of a colour."""


class Panel(NamedTuple):
    """A picture and the words above or below it."""

    words: str
    pixels: NDArray[np.uint8]
    """uint8 [h, w, 3]."""
    color: Color | None = None
    """Of a square before the words: what stands for this picture in others."""


def row(pictures: Sequence[Panel], height: int = 0, note: str = "", smooth: bool = False) -> Sheet:
    """Pictures side by side; see `rows`."""
    return rows([pictures], height, note, smooth)


def rows(
    lines: Sequence[Sequence[Panel | None]], height: int = 0, note: str = "", smooth: bool = False
) -> Sheet:
    """Pictures in lines and columns, the words of each above it.

    Args:
        lines: each from the left; None leaves a place empty. Words are cut where they do not fit.
        height: pixels of each, of strips less; 0: as high as the highest, which keeps its size.
        note: lines below all.
        smooth: of pictures that are resized; see `Sheet.picture`.
    """
    shapes = [one.pixels.shape for line in lines for one in line if one]
    asked, height = height, height or max(shape[0] for shape in shapes)

    def size_of(one: Panel) -> tuple[int, int]:
        own = one.pixels.shape
        return (own[1], own[0]) if not asked and own[0] == height else scaled(own, height)

    widths = [0] * max(map(len, lines))
    for line in lines:
        for column, one in enumerate(line):
            if one:
                widths[column] = max(widths[column], size_of(one)[0], LEAST_WIDE)
    total = sum(widths) + GAP * (len(widths) + 1)
    down = height + HEAD + GAP // 2
    notes = note.split("\n") if note else []
    sheet = Sheet(total, len(lines) * down + GAP // 2 + HEAD * len(notes))
    for i, line in enumerate(lines):
        left, top = GAP, i * down + GAP // 2
        for one, width in zip(line, widths, strict=False):
            if one:
                inset = 0
                if one.color:
                    sheet.box(left, top + 2, SWATCH, SWATCH, fill=one.color)
                    inset = SWATCH + 4
                sheet.words(left + inset, top, fitted(one.words, width - inset))
                sheet.picture(left, top + HEAD, one.pixels, size_of(one), smooth)
            left += width + GAP
    for i, words in enumerate(notes):
        top = len(lines) * down + GAP // 2 + i * HEAD
        sheet.words(GAP, top, fitted(words, total - 2 * GAP, SMALL), size=SMALL, color=QUIET)
    return sheet


def scaled(shape: Sequence[int], height: int) -> tuple[int, int]:
    """Width and height of a picture [H, W, ...] that is drawn `height` pixels high.

    Less high where it would be more than `MOST_WIDE` times as wide: strips.
    """
    scale = height * min(1 / shape[0], MOST_WIDE / shape[1])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def contact_sheet(
    pictures: Sequence[Panel],
    columns: int = 0,
    cell: tuple[int, int] = (240, 180),
    note: str = "",
) -> Sheet:
    """Pictures in lines and columns, each as large as a cell (width, height) holds, words below it.

    columns: 0: about as many as make the sheet square.
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures) * cell[1] / cell[0])))
    columns = min(columns, max(1, len(pictures)))
    shapes = [one.pixels.shape for one in pictures]
    scales = [min(cell[0] / shape[1], cell[1] / shape[0]) for shape in shapes]
    sizes = [
        (max(1, round(scale * shape[1])), max(1, round(scale * shape[0])))
        for scale, shape in zip(scales, shapes, strict=True)
    ]
    lines = range(0, len(pictures), columns)
    heights = [max(high for _, high in sizes[start : start + columns]) for start in lines]
    top = GAP + (HEAD if note else 0)
    down = sum(heights) + len(heights) * (HEAD + GAP)
    sheet = Sheet(GAP + columns * (cell[0] + GAP), top + down)
    if note:
        sheet.words(GAP, GAP, fitted(note, sheet.width - 2 * GAP))
    for start, high in zip(lines, heights, strict=True):
        for i in range(start, min(start + columns, len(pictures))):
            x, words = GAP + (i - start) * (cell[0] + GAP), pictures[i].words
            place = x, top + high - sizes[i][1]
            sheet.picture(*place, pictures[i].pixels, sizes[i], smooth=scales[i] < 1)
            named = fitted(words, cell[0], SMALL)
            sheet.words(x, top + high + 2, named, size=SMALL, color=QUIET)
        top += high + HEAD + GAP
    return sheet


def wrapped(notes: Sequence[str], width: float) -> list[str]:
    """Notes in lines of at most `width` pixels, each from a new one; empty ones are left out. A
    word that is wider is cut in its middle.
    """
    lines: list[str] = []
    for note in filter(None, notes):
        lines.append("")
        for word in note.split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if not lines[-1] or text_width(longer) <= width:
                lines[-1] = fitted(longer, width)
            else:
                lines.append(fitted(word, width))
    return lines


def write_lines(sheet: Sheet, lines: Sequence[str], top: float, first: Color = INK) -> None:
    """Write lines of words, `LINE` pixels each, below `top`; all but the `first` are quiet."""
    for number, words in enumerate(lines):
        sheet.words(GAP, top + LINE * number, words, color=QUIET if number else first)


def enlarged(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A grid [h, w] or [h, w, 3] with `height` x `width` pixels: each cell becomes a rectangle."""
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    return pixels[rows][:, columns]


def file_name(index: int, name: str, ending: str) -> str:
    """A name for a picture of image number `index`, which is called `name`: `00012_cat_heads.png`.

    Numbers keep names apart; of the image's own only letters, digits, dots and dashes are kept, at
    most 80 bytes. It never leaves its folder and is never hidden.
    """
    stem = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).stem)
    short = os.fsencode(stem)[:80].decode("utf-8", "ignore").strip("_.")
    return f"{index:05d}_{short}{ending}" if short else f"{index:05d}{ending}"


def photo(image: NDArray[np.uint8], height: int, like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image uint8 [H, W, 3] with the aspect of its view `like`, as large as `scaled` says."""
    size = scaled(like.shape, height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def thumb_height(view: NDArray[np.uint8], side: int) -> int:
    """Pixels of its height where its longer side has `side`."""
    return max(1, round(side * view.shape[0] / max(view.shape[:2])))


def masked_image(image: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image uint8 [H, W, 3] with the patches where `hidden` [h, w] is True in gray."""
    height, width = image.shape[0] // hidden.shape[0], image.shape[1] // hidden.shape[1]
    where = np.kron(hidden, np.ones((height, width), bool))
    return np.where(where[..., None], HIDDEN, image[: where.shape[0], : where.shape[1]])
