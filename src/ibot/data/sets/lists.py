"""Lists of image files, with labels or without: tables of text, or a path on each line."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ibot.data.decode import holds_more
from ibot.data.formats import PAGED, extension, extensions
from ibot.data.sets.classes import number_classes
from ibot.data.sets.files import FileImages, LabelledFiles, file_images, with_labels
from ibot.data.sets.parts import WORDS, Part, part_of, rows_of_part, split_note
from ibot.data.sets.scan import pages_note
from ibot.errors import DataError

LISTS = (".csv", ".tsv", ".txt")
"""Extensions of the files that are taken for lists."""


def open_list(file: str | Path, part: Part | None = None) -> LabelledFiles | None:
    """As `scan_list`, with a class each. Raises DataError for rows without a label too."""
    images = scan_list(file, part, labelled=True)
    assert images is None or isinstance(images, LabelledFiles)
    return images


def scan_list(
    file: str | Path, part: Part | None = None, *, labelled: bool = False
) -> FileImages | None:
    """Images of a list; None when it has no such part.

    The file begins with the column `path` and perhaps `label` and `split` (train, val, test), in
    any order and among others, separated by commas, semicolons or tabs; or it holds a path on each
    line, or a path and a label, without a header. Paths are relative to its folder. Where every row
    has a label, what comes back are `LabelledFiles`.

    Args:
        file: UTF-8 or UTF-16 text.
        part: all rows by default. Without splits all rows are training images.
        labelled: rows without a label are refused.

    Raises:
        DataError: rows without path, unknown splits, files that are missing.
    """
    file = Path(file)
    rows = _read_rows(file, labelled)
    splits = [row.split for row in rows]
    rows = [rows[i] for i in rows_of_part(splits, part)]
    if not rows:
        return None
    names, lines = [row.path for row in rows], [row.line for row in rows]
    images = listed_files(file.parent, names, f"'{file}'", lines)
    images = replace(images, notes=(*images.notes, *split_note(splits, part)))
    texts = [row.label for row in rows]
    return with_labels(images, *number_classes(texts)) if all(texts) else images


def _name(root: Path, path: str) -> str:
    """With forward slashes where a list of Windows has others, but where a file is called so."""
    return path.replace("\\", "/") if "\\" in path and not os.path.exists(root / path) else path  # noqa: PTH110


def listed_files(
    root: Path, names: Sequence[str], origin: str, lines: Sequence[int] = ()
) -> FileImages:
    """Image files that a list names. Raises DataError when one of them is missing.

    `origin` says whose list it is, `lines` where each name stands in it.
    """
    names = [_name(root, name) for name in names]
    gone = [i for i, name in enumerate(names) if not os.path.isfile(os.path.join(root, name))]  # noqa: PTH113, PTH118
    if gone:
        line = f" (line {lines[gone[0]]})" if lines else ""
        raise DataError(
            f"{origin} names '{names[gone[0]]}'{line}, which is missing",
            why=f"{len(gone)} of {len(names)} files are not below '{root}'",
            fix="put the files there, or correct the list",
        )
    paged = [name for name in names if extension(name) in PAGED]
    more = pages_note(paged, lambda name: holds_more(root / name))
    return replace(file_images(root, names, "list"), notes=tuple(more))


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str


def _read_rows(file: Path, labelled: bool) -> list[_Row]:
    """All rows of a list, checked. Raises DataError."""
    try:
        with file.open("rb") as content:  # "Unicode text" of spreadsheets
            wide = content.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        # File names need not be UTF-8.
        coding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
        with file.open(encoding=coding, errors=errors, newline="") as text:
            first = text.readline()
            separator = _separator(first.strip(), file.parent)
            if separator is not None:
                lines = enumerate((first, *text), 1)
                rows = [_plain_row(i, line.strip(), separator) for i, line in lines if line.strip()]
                _require_whole_rows(rows, labelled, file)
                return rows
            tabs = "\t" in first
            text.seek(0)
            table = csv.reader(
                text, delimiter="\t" if tabs else ";" if ";" in first and "," not in first else ","
            )
            cells = [
                (table.line_num, [cell.strip() for cell in row])
                for row in table
                if any(map(str.strip, row))
            ]
    except (OSError, UnicodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"the list '{file}' cannot be read", why=why, fix="check the path"
        ) from None
    if not cells:
        raise DataError(
            f"the list '{file}' is empty", fix="give it a line 'path,label' and one line per image"
        )
    columns = _columns(cells[0][1], tabs, labelled, file)
    path, label, split = columns or (0, 1, None)
    rows = [
        _Row(line, _cell(row, path), _cell(row, label), _cell(row, split))
        for line, row in cells[1 if columns else 0 :]
    ]
    _require_whole_rows(rows, labelled, file)
    return rows


def _separator(first: str, root: Path) -> str | None:
    """What stands between path and label in lines without a header, by the first of them.

    Empty where the line is a path as it is; None where it names no image, as a header does.
    """
    if "\t" in first:  # a table, with a header or without
        return None
    for separator in ("", *",; "):
        path = first.rpartition(separator)[0].strip() if separator else first
        if path and (extension(path) in extensions() or os.path.isfile(root / path)):  # noqa: PTH113
            return separator
    return None


def _plain_row(number: int, line: str, separator: str) -> _Row:
    path, _, label = line.rpartition(separator) if separator else (line, "", "")
    return _Row(number, path.strip(), label.strip(), "")


def _cell(row: list[str], column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


def _columns(
    first: list[str], tabs: bool, labelled: bool, file: Path
) -> tuple[int, int | None, int | None] | None:
    """Columns of path, label, split; None where `first` is an image. Raises DataError."""
    heads = [cell.lower() for cell in first]
    place = {head: heads.index(head) for head in ("path", "label", "split") if head in heads}
    if "path" in place and ("label" in place or not labelled):
        return place["path"], place.get("label"), place.get("split")
    if tabs and not {"path", "label"} & set(heads):
        return None
    needed = "columns 'path' and 'label'" if labelled else "column 'path'"
    raise DataError(
        f"the list '{file}' lacks the {needed}",
        why=f"its first line is '{','.join(first)[:100]}'",
        fix="begin it with the line 'path,label', or 'path,label,split'",
    )


def _require_whole_rows(rows: list[_Row], labelled: bool, file: Path) -> None:
    if not rows:
        raise DataError(f"the list '{file}' names no images", fix="add a line for each image")
    if bad := [row for row in rows if not row.path or (labelled and not row.label)]:
        missing = "label" if bad[0].path else "path"
        raise DataError(
            f"the list '{file}' has an empty {missing} in line {bad[0].line}",
            why=f"{len(bad)} of {len(rows)} rows lack a path or a label",
            fix="fill in the columns, or remove the lines",
        )
    if any(row.split for row in rows) and (
        bad := [row for row in rows if part_of(row.split) is None]
    ):
        known = [words[0] for words in WORDS.values()]
        raise DataError(
            f"the list '{file}' has an unknown split '{bad[0].split}' in line {bad[0].line}",
            why=f"{len(bad)} of {len(rows)} rows have a split that is none of {', '.join(known)}",
            fix="use these words, or remove the column",
        )
