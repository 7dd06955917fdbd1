"""Single values of a column of bytes in Parquet files, read without the rest of their row group."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.data.decode import UnreadableImage
from ibot.data.sets.parquet_pages import (
    NOT_AS_EXPECTED,
    Page,
    Pages,
    decompress,
    find_pages,
    stored_bytes,
)
from ibot.data.sets.tables import arrow, column_of

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_KEPT = 16384
"""Chunks of which a process remembers the places of the values, some 1.5 KB each of 100 rows."""
_State = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a row group holds of a column."""

    file: int
    """Number of its file among those of the set."""
    group: int
    """Number of the row group in the file."""
    rows: int
    start: int
    """First byte in the file."""
    bytes: int
    codec: str
    """Parquet's name of the compression."""
    depth: int
    """Largest definition level: how many of the column and what it lies in may be null."""
    flat: bool
    """Whether a row has one value at most."""

    @property
    def single(self) -> bool:
        """Whether a value can be read without unpacking those beside it, as far as is known."""
        return self.flat and self.codec in ("UNCOMPRESSED", "SNAPPY")

    @staticmethod
    def of(opened: ParquetFile, column: str, file: int, group: int) -> Chunk:
        """The chunk of a `column`, with dots inside of structs, in a row group."""
        found = opened.metadata.row_group(group)
        paths = [found.column(i).path_in_schema for i in range(found.num_columns)]
        place = paths.index(column)
        about, schema = found.column(place), opened.schema.column(place)
        starts = about.data_page_offset, about.dictionary_page_offset or about.data_page_offset
        return Chunk(
            file=file,
            group=group,
            rows=found.num_rows,
            start=min(starts),
            bytes=about.total_compressed_size,
            codec=about.compression,
            depth=schema.max_definition_level,
            flat=schema.max_repetition_level == 0,
        )


def read_cell(path: Path, column: str, chunk: Chunk, row: int) -> bytes | None:
    """The value of a row of a chunk; None where it is null. Raises UnreadableImage."""
    try:
        status = os.stat(path)  # noqa: PTH116 - once for each image
        state = status.st_size, status.st_mtime_ns
        if (pages := _pages(path, state, chunk)) is not None:
            return pages.read(path, row, lambda path, page: _unpacked(path, state, page))
        return _row_group(path, state, column, chunk.group)[row].as_py()
    except FileNotFoundError:
        raise UnreadableImage("missing") from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.strerror else "corrupt"
        raise UnreadableImage(reason) from None
    except (ValueError, TypeError, LookupError, MemoryError, NotImplementedError):
        raise UnreadableImage("corrupt") from None


def read_cell_plainly(path: Path, column: str, chunk: Chunk, row: int) -> bytes | None:
    """As `read_cell`, by pyarrow alone, which decodes the row group."""
    return _row_group(path, (0, 0), column, chunk.group)[row].as_py()


# What processes remember is told apart by the state of the file, holds nothing open, and serves
# forked ones too.


@lru_cache(_KEPT)
def _pages(path: Path, state: _State, chunk: Chunk) -> Pages | None:
    """Where the values of a chunk lie; None where it is to be read by pyarrow."""
    if not chunk.flat:
        return None
    try:
        return find_pages(path, (chunk.start, chunk.bytes), chunk.rows, chunk.codec, chunk.depth)
    except FileNotFoundError:
        raise
    except NOT_AS_EXPECTED:
        return None


@lru_cache(2)
def _unpacked(path: Path, state: _State, page: Page) -> bytes:
    return decompress(stored_bytes(path, page.start, page.stored), page.codec, page.size)


@lru_cache(2)
def _row_group(path: Path, state: _State, column: str, group: int) -> Any:
    with arrow("pyarrow.parquet").ParquetFile(path, memory_map=True) as file:
        table = file.read_row_group(group, columns=[column], use_threads=False)
    return column_of(table, column)
