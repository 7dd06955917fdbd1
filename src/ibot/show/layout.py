"""Where pictures stand on a sheet, and how their files are called."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.show.canvas import GAP, HEAD, QUIET, Sheet, fitted


def row(
    pictures: Sequence[tuple[str, NDArray[np.uint8]]],
    height: int = 0,
    note: str = "",
    smooth: bool = False,
) -> Sheet:
    """Pictures side by side, the words of each above it.

    Args:
        pictures: (words, uint8 [h, w, 3]); words are cut where they do not fit.
        height: pixels of each; 0: that of the highest, to which the others are enlarged.
        note: a line below all.
        smooth: of pictures that are resized; see `Sheet.picture`.
    """
    height = height or max(one.shape[0] for _, one in pictures)
    widths = [max(1, round(one.shape[1] * height / one.shape[0])) for _, one in pictures]
    total = sum(widths) + GAP * (len(widths) + 1)
    sheet = Sheet(total, height + GAP + HEAD + (HEAD if note else GAP))
    left = GAP
    for (words, one), width in zip(pictures, widths, strict=True):
        sheet.words(left, GAP // 2, fitted(words, width))
        sheet.picture(left, GAP // 2 + HEAD, one, (width, height), smooth)
        left += width + GAP
    if note:
        below = GAP + HEAD + height
        sheet.words(GAP, below, fitted(note, total - 2 * GAP, 11), size=11, color=QUIET)
    return sheet


def contact_sheet(
    pictures: Sequence[tuple[str, NDArray[np.uint8]]],
    columns: int = 0,
    cell: tuple[int, int] = (240, 180),
    note: str = "",
) -> Sheet:
    """Pictures in a grid, each within a cell (width, height), its words below it.

    columns: 0: about as many as make the sheet square.
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures) * cell[1] / cell[0])))
    columns = min(columns, max(1, len(pictures)))
    rows = -(-len(pictures) // columns)
    across, down = cell[0] + GAP, cell[1] + HEAD + GAP
    top = GAP + (HEAD if note else 0)
    sheet = Sheet(GAP + columns * across, top + rows * down)
    if note:
        sheet.words(GAP, GAP, fitted(note, sheet.width - 2 * GAP))
    for i, (words, one) in enumerate(pictures):
        x, y = GAP + i % columns * across, top + i // columns * down
        scale = min(cell[0] / one.shape[1], cell[1] / one.shape[0])
        width, height = (max(1, round(scale * side)) for side in (one.shape[1], one.shape[0]))
        place = x + (cell[0] - width) // 2, y + (cell[1] - height) // 2
        sheet.picture(*place, one, (width, height), smooth=scale < 1)
        sheet.words(x, y + cell[1] + 2, fitted(words, cell[0], 11), size=11, color=QUIET)
    return sheet


def reduced(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The same picture with a longer side of at most `side` pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(picture)


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
