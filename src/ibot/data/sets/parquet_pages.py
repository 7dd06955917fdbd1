"""Where each value of a column of bytes lies in a Parquet file, so that one is read alone.

pyarrow decodes a whole row group, 100 to 1000 images, to give one of them. What is known here are
the encodings that writers of images use (plain and dictionary, pages of both versions); everything
else is left to pyarrow. Source: the specification of Apache Parquet (parquet.thrift).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.parquet_encoding import (
    BLOCK,
    Bytes,
    Thrift,
    hybrid,
    snappy_blocks,
    varint,
)
from ibot.data.sets.tables import arrow

_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli"}
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
"""Types of pages."""
_PLAIN, _BY_NUMBER = 0, (2, 8)
"""Encodings: values one after the other, and numbers of those in the dictionary."""
_RUNS = 3
"""Encoding of levels as `hybrid` reads them."""
_LARGEST = 2**31 - 1
"""Bytes of the largest page."""
NOT_AS_EXPECTED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    struct.error,
)
"""What is met in chunks that are written otherwise, or damaged."""


@dataclass(frozen=True, slots=True)
class Page:
    """Values of one page, as they lie in the file."""

    start: int
    """First byte in the file."""
    stored: int
    """Bytes in the file."""
    size: int
    """Bytes when unpacked."""
    codec: str
    """Of pyarrow; empty where nothing is compressed."""
    blocks: NDArray[np.int32] | None
    """Where each 64 KB of the unpacked bytes begin among the stored ones, and the end; None where
    they cannot be unpacked alone."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the values of a column chunk lie."""

    pages: tuple[Page, ...]
    cells: NDArray[np.int32]
    """int32 [rows, 3]: page, first byte when unpacked, bytes; -1 for rows without a value."""

    def read(self, path: Path, row: int, unpack: Callable[[Path, Page], bytes]) -> bytes | None:
        """The value of a row; `unpack` gives all bytes of a page where no block stands alone."""
        number, start, size = self.cells[row].tolist()
        if number < 0:
            return None
        page = self.pages[number]
        if not page.codec:
            return stored_bytes(path, page.start + start, size)
        if page.blocks is None:
            return unpack(path, page)[start : start + size]
        first, last = start // BLOCK, -(-(start + size) // BLOCK)
        begin, end = page.blocks[[first, last]].tolist()
        wanted = min(last * BLOCK, page.size) - first * BLOCK
        packed = varint(wanted) + stored_bytes(path, page.start + begin, end - begin)
        start -= first * BLOCK
        return decompress(packed, page.codec, wanted)[start : start + size]


def find_pages(path: Path, span: tuple[int, int], rows: int, codec: str, depth: int) -> Pages:
    """Look through a column chunk for its values.

    Args:
        path: the Parquet file.
        span: first byte of the chunk in the file, and its bytes.
        rows: of the chunk.
        codec: Parquet's name of its compression.
        depth: largest definition level; a row with a smaller one has no value.

    Raises:
        one of `NOT_AS_EXPECTED`: another form, or damage.
    """
    if codec != "UNCOMPRESSED" and codec not in _CODECS:
        raise ValueError(codec)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        walk = _Walk(content, _CODECS.get(codec, ""), depth)
        place, end, found = span[0], sum(span), 0
        while found < rows and place < end:
            place, count = walk.page(place, rows - found)
            found += count
    if found != rows:
        raise ValueError(f"{found} of {rows} rows")
    return Pages(tuple(walk.pages), np.concatenate(walk.cells).astype(np.int32))


def stored_bytes(path: Path, start: int, size: int) -> bytes:
    """A part of a file. Raises OSError, ValueError where it ends before."""
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(size)
    if len(content) < size:
        raise ValueError("truncated")
    return content


def decompress(packed: bytes, codec: str, size: int) -> bytes:
    """Unpacked bytes, `size` of them. Raises OSError or ValueError for damaged ones."""
    return arrow().Codec(codec).decompress(packed, decompressed_size=size, asbytes=True)


class _Walk:
    """The pages of a chunk, one after the other."""

    def __init__(self, content: mmap.mmap, codec: str, depth: int) -> None:
        self.content, self.codec, self.depth = content, codec, depth
        self.pages: list[Page] = []
        self.cells: list[NDArray[np.int64]] = []
        self.dictionary = np.empty((0, 3), np.int64)

    def page(self, place: int, left: int) -> tuple[int, int]:
        """Where the next page begins, and how many rows of the `left` ones that at `place` has."""
        thrift = Thrift(self.content, place)
        header = thrift.struct()
        start, kind, size, stored = thrift.place, header[1], header[2], header[3]
        if min(size, stored) < 0 or max(size, stored) > _LARGEST:
            raise ValueError("a size that no page has")
        if kind == _DICTIONARY:
            unpacked, base = self._open(start, stored, size, self.codec)
            self.dictionary = self._plain(unpacked, base, base, header[7][1])
            return start + stored, 0
        if kind not in (_DATA, _DATA_V2):
            return start + stored, 0
        head = header[5 if kind == _DATA else 8]
        rows = head[1]
        if not 0 <= rows <= left:
            raise ValueError(f"{rows} rows of {left}")
        width = self.depth.bit_length()
        if kind == _DATA:
            encoding = head[2]
            unpacked, base = self._open(start, stored, size, self.codec)
            first, levels = base, np.full(rows, self.depth)
            if self.depth:
                if head[3] != _RUNS:
                    raise ValueError(f"levels in encoding {head[3]}")
                (length,) = struct.unpack_from("<I", unpacked, base)
                first = base + 4 + length
                levels = hybrid(unpacked[base + 4 : first], width, rows)
        else:
            encoding, length = head[4], head[5]
            if head[6]:
                raise ValueError("lists")
            # Without a depth there are no levels, and all are 0.
            levels = hybrid(self.content[start : start + length], width, rows)
            codec = self.codec if head.get(7, True) else ""
            unpacked, base = self._open(start + length, stored - length, size - length, codec)
            first = base
        self.cells.append(self._cells(unpacked, base, first, levels, encoding))
        return start + stored, rows

    def _open(self, start: int, stored: int, size: int, codec: str) -> tuple[Bytes, int]:
        """The bytes of a page, and where it begins among them."""
        if not codec:
            if stored != size:
                raise ValueError("bytes that are missing")
            self.pages.append(Page(start, stored, size, "", None))
            return self.content, start
        packed = self.content[start : start + stored]
        blocks = snappy_blocks(packed, size) if codec == "snappy" else None
        self.pages.append(Page(start, stored, size, codec, blocks))
        return decompress(packed, codec, size), 0

    def _plain(self, unpacked: Bytes, base: int, place: int, count: int) -> NDArray[np.int64]:
        number, found = len(self.pages) - 1, []
        for _ in range(count):
            (size,) = struct.unpack_from("<I", unpacked, place)
            found.append((number, place + 4 - base, size))
            place += 4 + size
        if place > base + self.pages[-1].size:
            raise ValueError("values beyond the page")
        return np.array(found, np.int64).reshape(-1, 3)

    def _cells(
        self,
        unpacked: Bytes,
        base: int,
        first: int,
        levels: NDArray[np.int64],
        encoding: int,
    ) -> NDArray[np.int64]:
        """Cells of the rows of a page whose values begin at `first`."""
        present = levels == self.depth
        count = int(present.sum())
        if encoding == _PLAIN:
            values = self._plain(unpacked, base, first, count)
        elif encoding in _BY_NUMBER:
            end = base + self.pages[-1].size
            numbers = unpacked[first + 1 : end] if count else b""
            values = self.dictionary[hybrid(numbers, unpacked[first] if count else 0, count)]
        else:
            raise ValueError(f"encoding {encoding}")
        cells = np.full((len(levels), 3), -1, np.int64)
        cells[present] = values
        return cells
