"""Pictures for the report of a run, small enough to be mailed."""

from __future__ import annotations

import os
import re
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
FOLDERS = ("pictures", "overlays")
"""Names of folders in which pictures lie."""
_KEPT = re.compile("[a-z_]+-[0-9a-f]{12}")
"""Name of what an evaluation keeps: its PNG files are pictures, or it has one beside it."""


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
    """The pictures that commands and evaluations drew in and below a run.

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
        drawn = not set(FOLDERS).isdisjoint(Path(place).relative_to(run).parts)
        kept = _KEPT.fullmatch(Path(place).name)
        for file in (Path(place) / name for name in sorted(names)):
            own = file.suffix == ".png" and (kept or _KEPT.fullmatch(file.stem))
            if own or (drawn and file.name.lower().endswith(SUFFIXES)):
                yield file


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
