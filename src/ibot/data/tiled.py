"""TIFF files in tiles or strips with their reduced levels: which there are, and their pixels by
box. Read by tifffile and imagecodecs (extra `slides`), which are loaded late.

A file is opened for each read and closed after it; what its header says is kept by each process
for the few files that were read last.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.quiet import quiet
from ibot.data.tiled_levels import Level, levels_of
from ibot.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in both byte orders."""
HEADERS = 64
"""Files whose headers a process keeps."""
_ORIENTATION = 274


@dataclass(frozen=True, slots=True, eq=False)
class TiledPicture:
    """A picture in a file, with its levels."""

    path: Path
    levels: tuple[Level, ...]
    """The largest first."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.levels[0].height, self.levels[0].width

    def level(self, most: float) -> Level:
        """The coarsest level that is reduced by `most` or less, a pixel of rounding allowed."""
        fits = [level for level in self.levels if max(level.reduced) <= most * (1 + 1e-3)]
        return fits[-1] if fits else self.levels[0]

    def read(self, level: Level, box: Box) -> NDArray[Any]:
        """Stored values of a box of a level, [height, width, C]; only its tiles are decoded.

        Raises UnreadableImage.
        """
        top, left, height, width = box
        out = np.full((height, width, level.bands), level.empty, level.page.dtype)
        try:
            with open(self.path, "rb") as file, quiet():  # noqa: PTH123 - as in `decode`
                for page, number in _touched(level, box):
                    data = _bytes(file, level, page, number)
                    _paste(out, level, page, number, data, top, left)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
        return out


def tiled_picture(path: str | Path, *, every_page: bool = False) -> TiledPicture | None:
    """The picture that a TIFF file holds; None for a file in another format, and for a picture
    that is to be turned, which Pillow does.

    The picture is the first page. Its levels are its SubIFDs and the pages that say of themselves
    that they are reduced, or lie in tiles as it does, as far as they have its shape, type and
    bands: so neither labels, overviews of the glass nor further pages are taken for levels.
    every_page: further pages of one band and the first page's shape are further bands.
    Raises UnreadableImage, and MissingExtra without tifffile.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            if file.read(4) not in SIGNATURES:
                return None
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        raise UnreadableImage("missing") from None
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
    return _header(str(path), status.st_size, status.st_mtime_ns, every_page)


@lru_cache(maxsize=HEADERS)
def _header(path: str, num_bytes: int, changed: int, every_page: bool) -> TiledPicture | None:
    """The header of a file of that size and time: one that changed is another."""
    del num_bytes, changed
    try:
        from tifffile import TiffFile
    except ImportError:
        raise MissingExtra("tifffile", "slides") from None
    with quiet():
        try:
            with TiffFile(path) as file:
                if file.pages.first.tags.valueof(_ORIENTATION, 1) > 1:
                    return None
                return TiledPicture(Path(path), levels_of(file, every_page=every_page))
        except UnreadableImage:
            raise
        except Exception as error:  # on damaged bytes the reader raises almost anything
            raise UnreadableImage("corrupt TIFF header", _first_line(error)) from None


def _touched(level: Level, box: Box) -> Iterator[tuple[int, int]]:
    """Page and number of the tiles that a box meets, in the order of the file's lists."""
    top, left, height, width = box
    high, wide = level.tile
    down, across = math.ceil(level.height / high), math.ceil(level.width / wide)
    for page, plane in product(range(len(level.pages)), range(level.planes)):
        for row in range(top // high, min(down, -(-(top + height) // high))):
            for column in range(left // wide, min(across, -(-(left + width) // wide))):
                yield page, (plane * down + row) * across + column


def _bytes(file: BinaryIO, level: Level, page: int, number: int) -> bytes | None:
    """The stored bytes of a tile; None where none are."""
    offset, count = int(level.offsets[page, number]), int(level.counts[page, number])
    if not (offset and count):
        return None
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise UnreadableImage("truncated", f"tile {number} ends after {len(data)} of {count} bytes")
    return data


def _paste(
    out: NDArray[Any],
    level: Level,
    number_of_page: int,
    number: int,
    data: bytes | None,
    top: int,
    left: int,
) -> None:
    """Decode a tile, and write what of it lies in the box that begins at (top, left)."""
    if data is None:
        return
    page = level.pages[number_of_page]
    try:
        found, place, shape = page.decode(
            data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader
        )
    except Exception as error:  # as above
        raise _undecoded(number, error) from None
    assert found is not None
    plane, _, y, x, _ = place
    pixels = found[0][: min(shape[1], level.height - y), : min(shape[2], level.width - x)]
    rows = _overlap(y, pixels.shape[0], top, out.shape[0])
    columns = _overlap(x, pixels.shape[1], left, out.shape[1])
    first = plane + number_of_page * (level.bands // len(level.pages))
    bands = slice(first, first + pixels.shape[2])
    out[rows[0], columns[0], bands] = pixels[rows[1], columns[1]]


def _overlap(start: int, length: int, first: int, count: int) -> tuple[slice, slice]:
    """Where what lies at `start` meets what lies at `first`: in places of the latter, of the
    former.
    """
    low, high = max(start, first), min(start + length, first + count)
    return slice(low - first, high - first), slice(low - start, high - start)


def _undecoded(number: int, error: Exception) -> UnreadableImage:
    words = _first_line(error)
    if isinstance(error, ImportError) or "requires the 'imagecodecs'" in str(error):
        raise MissingExtra("imagecodecs", "slides") from None
    return UnreadableImage(f"tile {number} cannot be decoded", words)


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0][:120]
