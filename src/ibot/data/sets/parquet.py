"""Parquet files: encoded images in a column, read by row, or lists of paths."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets.archives import NO_IMAGE
from ibot.data.sets.files import FileImages
from ibot.data.sets.fingerprints import file_state
from ibot.data.sets.parquet_cells import Chunk, read_cell
from ibot.data.sets.parts import Part
from ibot.data.sets.table_rows import Rows, images_of_rows
from ibot.data.sets.tables import arrow, common_columns, find_columns
from ibot.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData, ParquetFile


@dataclass(frozen=True, slots=True, eq=False)
class ParquetCells:
    """The places of the images of a set in Parquet files."""

    names: tuple[str, ...]
    """Of the files, relative to the root of the set."""
    column: str
    chunks: tuple[Chunk, ...]
    """The parts in which the files hold that column, one for each row group."""
    places: NDArray[np.int64]
    """int64 [n, 2]: number of the chunk, and row in it, of each image."""

    def open(self, root: Path, index: int) -> io.BytesIO:
        """The file of an image. Raises UnreadableImage."""
        number, row = self.places[index].tolist()
        chunk = self.chunks[number]
        content = read_cell(root / self.names[chunk.file], self.column, chunk, row)
        if content is None:
            raise UnreadableImage(NO_IMAGE)
        return io.BytesIO(content)

    def state(self, root: Path) -> NDArray[np.int64]:
        """Sizes and times of the files and places of the images in them, for a fingerprint."""
        return np.vstack([file_state(str(root / name) for name in self.names), self.places])


def scan_parquet(paths: Sequence[Path], part: Part | None = None) -> FileImages | None:
    """Images of Parquet files, labelled where every one of them has a class; None without rows of
    the part.

    The images lie in a column of bytes or in the struct {bytes, path} of Hugging Face (see
    `tables.find_columns`), or the column `path` says where; labels in `label`, with names where the
    metadata of Hugging Face have them; parts in `split`. An image is called by its path in the
    struct where the file has no path twice, else by its row, as in `data.parquet/00042`.
    Only footers and these columns are read; images when they are asked for.

    Raises:
        DataError: damaged or empty files, no column of images, files of different columns.
        MissingExtra: pyarrow is not installed.
    """
    root = Path(os.path.commonpath([path.parent for path in paths]))
    files = []
    for path in paths:
        with _open(path) as file:  # there may be more than a process may hold open
            files.append(file)
    found = [find_columns(f.schema_arrow, str(p)) for f, p in zip(files, paths, strict=True)]
    columns = common_columns(found, paths)
    if part == "val" and columns.split is None:
        return None  # before anything is read
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    rows = Rows(
        root=root,
        files=names,
        columns=columns,
        tables=[_read(f, columns.texts, p) for f, p in zip(files, paths, strict=True)],
        sizes=[file.metadata.num_rows for file in files],
    )
    images = images_of_rows(rows, part, "parquet", lambda chosen: _cells(files, rows, chosen))
    if images is None or not isinstance(images.archives, ParquetCells):
        return images
    return replace(images, notes=(*images.notes, *_slow_note(images.archives.chunks)))


def _slow_note(chunks: Sequence[Chunk]) -> list[str]:
    """A sentence on images that are read with others."""
    slow = [chunk for chunk in chunks if chunk.rows > 1 and not chunk.single]
    if not slow:
        return []
    rows = max(chunk.rows for chunk in slow)
    return [
        f"images lie in groups of {rows}, compressed together ({slow[0].codec.lower()}), of which "
        "much is unpacked for each: faster after `ibot data pack`, or written without compression"
    ]


def _open(path: Path, footer: FileMetaData | None = None) -> ParquetFile:
    parquet = arrow("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path, metadata=footer, memory_map=True)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's are of these kinds
        raise _unreadable(path, error) from None


def _read(closed: ParquetFile, columns: list[str], path: Path) -> pa.Table:
    try:
        with _open(path, closed.metadata) as file:
            return file.read(columns=columns, use_threads=False)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    why = getattr(error, "strerror", None) or str(error).split("\n")[0]
    return DataError(f"'{path}' cannot be read as a Parquet file", why=why, fix="copy it again")


def _cells(files: list[ParquetFile], rows: Rows, chosen: NDArray[np.int64]) -> ParquetCells:
    assert rows.columns.image is not None
    chunks = [
        Chunk.of(file, rows.columns.image, number, group)
        for number, file in enumerate(files)
        for group in range(file.metadata.num_row_groups)
    ]
    ends = np.cumsum([chunk.rows for chunk in chunks])
    number = np.searchsorted(ends, chosen, side="right")
    first = np.concatenate([[0], ends])[number]
    places = np.stack([number, chosen - first], 1)
    return ParquetCells(rows.files, rows.columns.image, tuple(chunks), places)
