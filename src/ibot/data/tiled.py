"""TIFF files in tiles or strips with their reduced levels: which there are, and their pixels by
box. Read by tifffile and imagecodecs (extra `slides`), which are loaded late.

A file is opened for each read and closed after it; what its header says is kept by each process
for the few files that were read last.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.quiet import quiet
from ibot.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from tifffile import TiffPage

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in both byte orders."""
MAX_TILE = 2**28
"""Values of a tile or strip: one that declares more is refused before memory is taken."""
MAX_PAGES = 64
"""Pages in which levels are looked for; a level stands near the picture that it is of."""
HEADERS = 64
"""Files whose headers a process keeps."""
_ORIENTATION = 274
_TILE_LISTS = (273, 279, 324, 325)
"""Tags: places and bytes of strips and tiles."""
_WHITE = 255
"""What stands where a scanner of slides stored no tile: it saw glass."""


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A picture in one resolution, as its file stores it."""

    height: int
    width: int
    reduced: tuple[float, float]
    """Pixels of the largest level that one of this is high and wide; 1, 1 of the largest."""
    pages: tuple[TiffPage, ...]
    """What decodes its tiles, one page or one for each band; their file is closed."""
    tile: tuple[int, int]
    """Height and width of its tiles or strips."""
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    """int64 [pages, n]: where in the file each tile begins, and its bytes; 0 where none is stored.
    """
    planes: int
    """Bands of a page that are stored apart; 1: the bands of a pixel lie together."""
    empty: float
    """The value where no tile is stored."""
    mask: Level | None = None
    """Of the same size, zero where the picture holds nothing; None: it holds something everywhere.
    """

    @property
    def page(self) -> TiffPage:
        """The first page: all have its type and meaning."""
        return self.pages[0]

    @property
    def bands(self) -> int:
        """C of what is read."""
        return len(self.pages) * int(self.page.samplesperpixel)


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
                levels = _masked(file, list(_levels(file, every_page)))
                return TiledPicture(Path(path), tuple(levels))
        except UnreadableImage:
            raise
        except Exception as error:  # on damaged bytes the reader raises almost anything
            raise UnreadableImage("corrupt TIFF header", _first_line(error)) from None


def _levels(file: Any, every_page: bool) -> Iterator[Level]:
    """The levels of the first page, the largest first."""
    base = file.pages[0]
    _check(base)
    if every_page and len(bands := [page for page in file.pages if _is_band(base, page)]) > 1:
        yield from _levels_of_bands(bands)
        return
    white = bool(file.is_svs) and base.dtype == np.uint8
    yield _level((base,), (1.0, 1.0), white)
    found = []
    for page, marked in _candidates(file, base):
        reduced = _reduction(base, page)
        alike = all(
            getattr(page, key) == getattr(base, key) for key in ("dtype", "samplesperpixel")
        )
        if reduced is not None and alike and (marked or (page.is_tiled and base.is_tiled)):
            found.append((max(reduced), page, reduced))
    for _, page, reduced in sorted(found, key=lambda one: one[0]):
        yield _level((page,), reduced, white)


def _is_band(base: Any, page: Any) -> bool:
    alike = ("imagelength", "imagewidth", "dtype", "samplesperpixel", "compression", "photometric")
    one = page.samplesperpixel == 1 and not (page.is_reduced or page.is_mask)
    return one and all(getattr(page, key) == getattr(base, key) for key in alike)


def _levels_of_bands(bands: list[Any]) -> Iterator[Level]:
    """Levels of pages that are a band each, from the SubIFDs of all of them."""
    yield _level(tuple(bands), (1.0, 1.0), False)
    for pages in zip(*(band.pages or () for band in bands), strict=False):
        reduced = _reduction(bands[0], pages[0])
        if reduced is not None and len({page.shape for page in pages}) == 1:
            yield _level(pages, reduced, False)


def _candidates(file: Any, base: Any) -> Iterator[tuple[Any, bool]]:
    """Pages that may be levels, and whether they say so themselves."""
    for page in base.pages or ():
        yield page, True
    for number in range(1, min(len(file.pages), MAX_PAGES)):
        # A damaged page behind the picture is no reason not to read it.
        with suppress(Exception):
            page = file.pages[number]
            mask_or_overview = page.subfiletype & ~1
            if not mask_or_overview:
                yield page, bool(page.is_reduced)


def _masked(file: Any, levels: list[Level]) -> list[Level]:
    """The levels, each with its mask; where the largest has one, those without are left out."""
    masks: dict[tuple[int, int], Level] = {}
    for number in range(1, min(len(file.pages), MAX_PAGES)):
        with suppress(Exception):  # as above
            page = file.pages[number]
            if page.is_mask:
                mask = _level((page,), (1.0, 1.0), False)
                masks.setdefault((mask.height, mask.width), mask)
    if (levels[0].height, levels[0].width) not in masks:
        return levels
    found = [(level, masks.get((level.height, level.width))) for level in levels]
    return [replace(level, mask=mask) for level, mask in found if mask is not None]


def _reduction(base: Any, page: Any) -> tuple[float, float] | None:
    """How many pixels of the base one of the page is high and wide; None where it is no level.

    Sizes of levels are rounded somehow: what is within a pixel of a whole factor is that factor.
    """
    sides = (base.imagelength, page.imagelength), (base.imagewidth, page.imagewidth)
    if any(small < 1 or small >= large for large, small in sides):
        return None
    large, small = max(sides)
    factor = round(large / small)
    if all(abs(large / factor - small) < 1 for large, small in sides):
        return float(factor), float(factor)
    high, wide = (large / small for large, small in sides)
    # What rounding of the shorter side explains.
    return (high, wide) if abs(high / wide - 1) < 1 / min(small for _, small in sides) else None


def _level(pages: tuple[Any, ...], reduced: tuple[float, float], white: bool) -> Level:
    page = pages[0]
    height, width = int(page.imagelength), int(page.imagewidth)
    tile = (
        (int(page.tilelength), int(page.tilewidth))
        if page.is_tiled
        else (min(int(page.rowsperstrip), height), width)
    )
    planes = int(page.samplesperpixel) if page.planarconfig == 2 else 1
    wanted = planes * math.ceil(height / tile[0]) * math.ceil(width / tile[1])
    listed = min(len(one) for p in pages for one in (p.dataoffsets, p.databytecounts))
    if listed < wanted:
        raise UnreadableImage("corrupt", f"{listed} of {wanted} tiles are listed")
    if math.prod(tile) * page.samplesperpixel > MAX_TILE:
        raise UnreadableImage(
            "too large a tile", f"{tile[1]} x {tile[0]} pixels; write the file in tiles of 256"
        )
    for each in pages:  # decoders and tables are made while the file is open
        _ = each.decode, each.jpegtables, each.jpegheader, each.colormap
    level = Level(
        height=height,
        width=width,
        reduced=reduced,
        pages=pages,
        tile=tile,
        offsets=np.array([each.dataoffsets[:wanted] for each in pages], np.int64),
        counts=np.array([each.databytecounts[:wanted] for each in pages], np.int64),
        planes=planes,
        empty=_WHITE if white else page.nodata,
    )
    for each in pages:
        _without_lists(each)
    return level


def _without_lists(page: Any) -> None:
    """Drop what the page has of its tiles: lists of Python numbers, ten times the arrays."""
    page.dataoffsets = page.databytecounts = ()
    for tag in _TILE_LISTS:
        if tag in page.tags:
            del page.tags[tag]


def _check(page: Any) -> None:
    if page.dtype is None or not page.imagelength or not page.imagewidth:
        raise UnreadableImage("unsupported TIFF layout")
    if page.imagedepth > 1:
        raise UnreadableImage("unsupported TIFF layout", "voxels are not read")


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
