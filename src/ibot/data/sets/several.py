"""Files, windows of files and sets that a user names one after the other."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ibot.config.reading import PICTURES, Channels
from ibot.data.formats import extension
from ibot.data.sets.lists import LISTS
from ibot.data.sets.window_places import parse_window
from ibot.data.tiled import Box
from ibot.errors import DataError, printable

MANY = (*LISTS, ".tar", ".parquet", ".arrow")
"""Extensions of files that stand for many images."""

Kind = Literal["files", "windows", "set"]


def window_of(text: str) -> tuple[str, Box] | None:
    """The file and the place in it that a name as `slide.svs#x=0,y=512,w=512,h=512` means."""
    found = None if Path(text).is_file() else parse_window(text)
    return found if found is not None and Path(found[0]).is_file() else None


def grouped(
    named: Sequence[str], channels: Channels = PICTURES
) -> Iterator[tuple[Kind, list[str]]]:
    """Consecutive image files together, and windows of such, each set alone.

    channels: which will be read. Raises DataError for what is missing.
    """
    # Where channels are read an array is an image, else a stack of pictures.
    many = (*MANY, ".npy") if channels == PICTURES else MANY
    together: list[str] = []
    before: Kind = "set"
    for text in named:
        kind = _kind(text, many)
        if together and kind != before:
            yield before, together
            together = []
        before = kind
        if kind == "set":
            yield kind, [text]
        else:
            together.append(text)
    if together:
        yield before, together


def _kind(text: str, many: Sequence[str]) -> Kind:
    path = Path(text)
    if window_of(text) is not None:
        return "windows"
    if path.is_file() and extension(path.name) not in many:
        return "files"
    if not text or not (path.exists() or ":" in text or glob.has_magic(text) or "{" in text):
        raise DataError(
            f"there is no file or folder '{printable(text)}'",
            fix="check the path: name files, folders or sets",
        )
    return "set"
