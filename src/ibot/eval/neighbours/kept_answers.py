"""The first answers to some queries, kept as small pictures and a JSON file from which
`ibot.show.ranked` draws rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import Images
from ibot.system.jsonl import write_json

HEIGHT, WIDTH = 120, 180
"""Pixels that a kept picture fits into."""
ANSWERS = 10
"""Kept of each query."""
FILE = "answers.json"

Mark = Literal["right", "wrong", "junk"]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a set, and what it is as an answer."""

    images: Images
    number: int
    mark: Mark | None = None
    """None: it is the query."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A query with its first answers."""

    query: Picture
    answers: Sequence[Picture]
    score: float | None
    """Average precision, 0..1; None: nothing is right."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture as it stands in the file."""

    name: str
    mark: Mark | None
    file: str
    """Below the folder; empty: the image cannot be read."""


def keep_answers(folder: Path, title: str, rows: Sequence[Answered]) -> None:
    """Write what a picture needs into `folder`, in the place of what an earlier run left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written: dict[tuple[int, int], str] = {}
    kept = [
        {
            "query": asdict(_keep(folder, row.query, written)),
            "answers": [asdict(_keep(folder, one, written)) for one in row.answers],
            "score": row.score,
        }
        for row in rows
    ]
    write_json(folder / FILE, {"title": title, "rows": kept})


def _keep(folder: Path, picture: Picture, written: dict[tuple[int, int], str]) -> Kept:
    """Write a small version of an image, once."""
    key = id(picture.images), picture.number
    if key not in written:
        written[key] = ""
        try:
            small = Image.fromarray(picture.images.read(picture.number))
        except UnreadableImage:
            pass
        else:
            small.thumbnail((WIDTH, HEIGHT))
            name = f"{len(written):04d}.jpg"
            small.save(folder / name, quality=90)
            written[key] = name
    return Kept(picture.images.name(picture.number), picture.mark, written[key])
