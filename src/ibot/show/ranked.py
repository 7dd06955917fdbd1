"""Rows of a query and its first answers, framed by what they are: green right, red wrong, grey
neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ibot.show.canvas import drawable

if TYPE_CHECKING:
    from ibot.types import ResultRecord

ANSWERS = "answers.json"
"""What an evaluation left beside the small pictures."""
FRAMES = {"right": "#2e9e4f", "wrong": "#d0342c", "junk": "#9aa0aa", None: "#1f2430"}
"""Colour of the frame of each answer, and of a query."""
CELL = (136, 112)
"""Width and height in pixels that a picture and its frame fit into."""
FRAME, GAP, HEAD = 4, 6, 18
"""Pixels of a frame, between cells, and of the line of text above a row."""
INK, PAPER, EMPTY = "#1f2430", "#ffffff", "#e6e8ec"


def draw(records: Sequence[ResultRecord], out: Path) -> list[Path]:
    """Write a PNG for each folder of answers that records name; none where none were kept."""
    folders = dict.fromkeys(record.extra.get("shown", "") for record in records)
    written = []
    for name in filter(None, folders):
        folder = out / name
        if (folder / ANSWERS).is_file():
            file = folder.with_name(f"{folder.name}.png")
            Image.fromarray(ranked_rows(folder)).save(file)
            written.append(file)
    return written


def ranked_rows(folder: Path) -> NDArray[np.uint8]:
    """A row for each query that a folder holds, its answers behind it: uint8 [H, W, 3]."""
    kept = json.loads((folder / ANSWERS).read_text())
    columns = 1 + max((len(row["answers"]) for row in kept["rows"]), default=0)
    across, down = CELL[0] + GAP, CELL[1] + GAP + HEAD
    size = (2 * GAP + columns * across, HEAD + GAP + len(kept["rows"]) * down)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP // 2), drawable(f"{kept['title']}; green right, red wrong, grey junk"), INK)
    for i, row in enumerate(kept["rows"]):
        top = HEAD + GAP + i * down
        found = "nothing is right" if row["score"] is None else f"AP {100 * row['score']:.1f}"
        pen.text((GAP, top), drawable(f"{row['query']['name']}: {found}"), INK)
        for column, one in enumerate([row["query"], *row["answers"]]):
            # A gap twice as wide behind the query.
            left = GAP + column * across + (GAP if column else 0)
            sheet.paste(_framed(folder, one), (left, top + HEAD))
    return np.asarray(sheet)


def _framed(folder: Path, picture: dict[str, Any]) -> Image.Image:
    """A picture in its frame, in the middle of a cell."""
    cell = Image.new("RGB", CELL, PAPER)
    inside = (CELL[0] - 2 * FRAME, CELL[1] - 2 * FRAME)
    if picture["file"]:
        image = Image.open(folder / picture["file"]).convert("RGB")
        image.thumbnail(inside)
    else:
        image = Image.new("RGB", inside, EMPTY)
    framed = (image.width + 2 * FRAME, image.height + 2 * FRAME)
    left, top = (CELL[0] - framed[0]) // 2, (CELL[1] - framed[1]) // 2
    cell.paste(FRAMES[picture["mark"]], (left, top, left + framed[0], top + framed[1]))
    cell.paste(image, (left + FRAME, top + FRAME))
    return cell
