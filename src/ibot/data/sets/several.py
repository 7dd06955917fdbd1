"""Files and sets that a user names one after the other."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ibot.config.reading import PICTURES, Channels
from ibot.data.formats import extension
from ibot.data.sets.lists import LISTS
from ibot.errors import DataError, printable

MANY = (*LISTS, ".tar", ".parquet", ".arrow")
"""Extensions of files that stand for many images."""


def grouped(
    named: Sequence[str], channels: Channels = PICTURES
) -> Iterator[tuple[Literal["files", "set"], list[str]]]:
    """Consecutive image files together, each set alone; `channels`: which will be read.

    Raises DataError for what is missing.
    """
    # Where channels are read an array is an image, else a stack of pictures.
    many = (*MANY, ".npy") if channels == PICTURES else MANY
    files: list[str] = []
    for text in named:
        path = Path(text)
        if path.is_file() and extension(path.name) not in many:
            files.append(text)
            continue
        if not text or not (path.exists() or ":" in text or glob.has_magic(text) or "{" in text):
            raise DataError(
                f"there is no file or folder '{printable(text)}'",
                fix="check the path: name files, folders or sets",
            )
        if files:
            yield "files", files
            files = []
        yield "set", [text]
    if files:
        yield "files", files
