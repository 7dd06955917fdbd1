"""Which pages of a TIFF file are the levels of its picture, and where the tiles of each lie."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tifffile import TiffPage

MAX_TILE = 2**28
"""Values of a tile or strip: one that declares more is refused before memory is taken."""
MAX_PAGES = 64
"""Pages in which levels are looked for; a level stands near the picture that it is of."""
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


def levels_of(file: Any, *, every_page: bool) -> tuple[Level, ...]:
    """The levels of the picture in an open TIFF, the largest first; see `tiled.tiled_picture`.

    Raises UnreadableImage, and on damaged bytes whatever tifffile raises.
    """
    return tuple(_masked(file, list(_levels(file, every_page))))


def _levels(file: Any, every_page: bool) -> Iterator[Level]:
    """As `levels_of`, without masks."""
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
