"""Tables as CSV files, whatever the names in them are made of."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from ibot.errors import printable
from ibot.system.files import replacing

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file name; no encoding has a place for them."""


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows of cells below a header; None is an empty cell.

    UTF-8; bytes of a name that are no UTF-8 are written as they are, so that the table names the
    files that exist. The file appears whole or, after an error, not at all. Raises OSError when it
    cannot be written.
    """
    with replacing(path) as temporary:
        fill_table(temporary, header, rows)


def fill_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """As `write_table`, into a place that is part of a file only once all is written."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # Its lines end in CR LF: with any other end some versions of Python leave a CR in a name
        # without quotes.
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(map(_cells, rows))


def print_table(file: TextIO, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """As `write_table`, onto a stream for other programs: a line for each row, which ends in LF.

    Invisible letters of names become escapes. Nothing is written before there is a row.
    """
    writer = csv.writer(file, lineterminator="\n")
    for number, row in enumerate(rows):
        if not number:
            writer.writerow(header)
        writer.writerow([printable(cell) for cell in _cells(row)])


def _cells(row: Sequence[Any]) -> list[str]:
    return ["" if cell is None else _storable(str(cell)) for cell in row]


def _storable(text: str) -> str:
    return text if text.isascii() else _NO_BYTE.sub("\ufffd", text)
