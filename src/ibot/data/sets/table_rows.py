"""From the rows of tables to images with names, classes and parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.archives import Container
from ibot.data.sets.classes import twins_note
from ibot.data.sets.files import FileImages, Kind, file_images, with_labels
from ibot.data.sets.lists import listed_files
from ibot.data.sets.parts import WORDS, Part, part_of, rows_of_part, split_note
from ibot.data.sets.tables import Columns, column_of, label_images, texts_of
from ibot.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of some files, counted through."""

    root: Path
    files: tuple[str, ...]
    """Names relative to the root."""
    columns: Columns
    tables: Sequence[pa.Table]
    """Of each file the columns of `columns.texts`."""
    sizes: Sequence[int]
    """Rows of each file."""

    @property
    def origin(self) -> str:
        """What errors call them."""
        return str(self.root / self.files[0])

    def texts(self, column: str) -> list[str]:
        """A column of all files; empty for nulls."""
        return [text for table in self.tables for text in texts_of(column_of(table, column))]


def images_of_rows(
    rows: Rows,
    part: Part | None,
    kind: Kind,
    container: Callable[[NDArray[np.int64]], Container],
) -> FileImages | None:
    """The images of a part, labelled where each has a class; None where there are none.

    Args:
        rows: of all parts.
        part: by the column `split`; all by default. Without splits all rows are training images.
        kind: how the set is opened.
        container: where the images of some rows lie.

    Raises:
        DataError: no rows, unknown splits, empty or missing paths, labels without a class.
    """
    if not sum(rows.sizes):
        raise DataError(f"no rows in '{rows.origin}'", fix="name a file that holds images")
    chosen, columns = _of_part(rows, part), rows.columns
    if not len(chosen):
        return None
    if columns.image is None:
        images = _listed(rows, chosen)
    else:
        called = _names(rows)
        names = [called[row] for row in chosen.tolist()]
        images = file_images(rows.root, names, kind, container(chosen))
    images = replace(images, notes=(*images.notes, *_notes(rows, part)))
    if columns.label is None:
        return images
    labels = [column_of(table, columns.label) for table in rows.tables]
    found = label_images(labels, columns.classes, rows.origin, chosen)
    if found is None:
        return images
    noted = replace(images, notes=(*images.notes, *twins_note(found[1])))
    return with_labels(noted, *found)


def _notes(rows: Rows, part: Part | None) -> list[str]:
    """What is left out of the rows and columns, a sentence each."""
    columns, notes = rows.columns, list(rows.columns.notes)
    if columns.split is not None:
        notes += split_note(rows.texts(columns.split), part)
    return notes


def _of_part(rows: Rows, part: Part | None) -> NDArray[np.int64]:
    """The rows of a part. Raises DataError for unknown splits."""
    if rows.columns.split is None:
        return np.arange(0 if part == "val" else sum(rows.sizes))
    splits = rows.texts(rows.columns.split)
    if any(splits) and (bad := [text for text in splits if part_of(text) is None]):
        raise DataError(
            f"'{rows.origin}' has an unknown split '{bad[0]}'",
            why=f"{len(bad)} of {len(splits)} rows have a split that is none of {', '.join(WORDS)}",
            fix="use these words, or call the column otherwise",
        )
    return np.array(rows_of_part(splits, part), np.int64)


def _names(rows: Rows) -> list[str]:
    """What the images of all rows are called."""
    found = []
    for table, file, size in zip(rows.tables, rows.files, rows.sizes, strict=True):
        path = rows.columns.path
        paths = texts_of(column_of(table, path)) if path else []
        if not all(paths) or len(set(paths)) < size:
            paths = [f"{row:05d}" for row in range(size)]
        found += [f"{file}/{path}" for path in paths]
    return found


def _listed(rows: Rows, chosen: NDArray[np.int64]) -> FileImages:
    """The images whose paths stand in the rows, relative to the folder of the files."""
    assert rows.columns.path is not None
    every = rows.texts(rows.columns.path)
    names = [every[row] for row in chosen.tolist()]
    if not all(names):
        raise DataError(
            f"the list '{rows.origin}' has an empty path in row {chosen[names.index('')]}",
            why=f"{names.count('')} of {len(names)} rows lack one",
            fix="fill in the column, or remove the rows",
        )
    return listed_files(rows.root, names, f"'{rows.origin}'")
