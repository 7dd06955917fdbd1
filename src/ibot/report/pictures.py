"""Pictures for the report of a run, small enough to be mailed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.report.html import jpeg

if TYPE_CHECKING:
    from PIL import Image

SIDE = 900
"""Longer side of a picture in the page, in pixels; smaller ones stay as they are."""
BUDGET = 1_200_000
"""Bytes of all pictures of the run in a page."""
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in the page."""

    title: str
    content: bytes
    """JPEG."""
    size: tuple[int, int]
    """Width and height."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The pictures of a page."""

    shown: Sequence[Shown] = ()
    left_out: int = 0
    """Further ones, for which there was no room."""


def of_the_run(run: Path, budget: int = BUDGET) -> Gallery:
    """The pictures that lie in folders called `pictures` in and below a run.

    In the order of their names, as many as the budget of bytes takes. What is no picture, or
    cannot be read, is passed over.
    """
    files, found, left = list(_files(run)), [], budget
    for place, file in enumerate(files):
        shown = _read(file, str(file.relative_to(run)))
        if shown is None:
            continue
        if len(shown.content) > left:
            return Gallery(found, len(files) - place)
        found.append(shown)
        left -= len(shown.content)
    return Gallery(found)


def _files(run: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(run):
        folders.sort()
        if "pictures" in Path(place).relative_to(run).parts:
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES):
                    yield Path(place) / name


def _read(file: Path, title: str) -> Shown | None:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            picture.draft("RGB", (SIDE, SIDE))
            small = _on_white(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Shown(title, jpeg(small, 82), small.size)


def _on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB; what is transparent in it is white."""
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    full = picture.convert("RGBA")
    white = Image.new("RGBA", full.size, "white")
    return Image.alpha_composite(white, full).convert("RGB")
