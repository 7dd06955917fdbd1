"""TIFF of any number of channels and any type: interleaved, in planes, or a page for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import RGB
from ibot.data.channels.levels import Levels, to_levels
from ibot.data.channels.stored import Header, How, is_transposed, require_size, upright
from ibot.data.channels.tiff_names import page_names, pictures_in_depth
from ibot.data.decode import UnreadableImage
from ibot.data.quiet import quiet
from ibot.errors import MissingExtra

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_NO_DATA, _ORIENTATION = 42113, 274
"""Tags: of GDAL, the value of pixels that were not measured, as text; and EXIF's."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _YCBCR = 0, 1, 2, 3, 4, 6
_SENSOR = (32803, 34892)
"""Levels of a sensor, as they are."""
_COLOUR_CODECS = (6, 7, 33003, 33005, 34712, 50001)
"""Compressions (JPEG, JPEG 2000, WebP) that turn luma and colour difference to RGB themselves."""


@contextmanager
def opened_tiff(file: BinaryIO) -> Iterator[TiffFile]:
    """A TIFF with its first page read; what goes wrong within becomes UnreadableImage.

    Raises MissingExtra without tifffile.
    """
    try:
        from tifffile import TiffFile
    except ImportError:
        raise MissingExtra("tifffile", "channels") from None
    with quiet():
        try:
            with TiffFile(file) as tiff:
                yield tiff
        except (UnreadableImage, MissingExtra):
            raise
        except Exception as error:  # on damaged bytes its readers raise almost anything
            raise UnreadableImage(*_reason(error)) from None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the channels of an image lie in a TIFF."""

    pages: tuple[TiffPage, ...]
    """One with all channels, or one for each."""
    mask: TiffPage | None
    """Zero where the pages hold nothing."""
    header: Header
    orientation: int
    ordinary: bool
    """Colours in another space than RGB, of 8 bits: for the ordinary decoder."""


def layout(tiff: TiffFile, how: How) -> Layout:
    """Which pages make the image, checked. Reduced pictures of it are left out.

    Raises UnreadableImage for pages of different sizes or types, stacks in depth or time, and what
    `to_levels` has no rule for.
    """
    if not len(tiff.pages):
        raise UnreadableImage("corrupt", "no page")
    all_pages: Sequence[Any] = list(tiff.pages)
    pages = [page for page in all_pages if not (page.is_reduced or page.is_mask)] or [all_pages[0]]
    if _is_slide(tiff):  # further pages are its levels, its label and a view of the whole glass
        pages = [all_pages[0]]
    first = pages[0]
    count = 3 if first.photometric == _PALETTE else len(pages) * first.samplesperpixel
    require_size(first.imagelength, first.imagewidth, count, how)
    if (depth := pictures_in_depth(tiff, len(all_pages))) > 1:
        raise UnreadableImage(f"{depth} pictures in depth or time", "write a file for each")
    _require_equal(pages)
    orientation = _orientation(first) if how.exif_orientation == "apply" else 1
    lies = is_transposed(orientation)
    sides = first.imagelength, first.imagewidth
    names = _names(tiff, pages, count)
    masks = [page for page in all_pages if page.is_mask and not page.is_reduced]
    mask = next((page for page in masks if page.shape == sides), None)
    return Layout(
        tuple(pages),
        mask,
        Header(sides[lies], sides[not lies], names),
        orientation,
        _is_ordinary(first),
    )


def read_pages(tiff: TiffFile, how: How) -> Levels:
    """All channels of a TIFF. Raises UnreadableImage."""
    found = layout(tiff, how)
    shape = found.pages[0].imagelength, found.pages[0].imagewidth, len(found.header.names)
    out = np.empty(shape, np.float32)
    for i, page in enumerate(found.pages):
        require_whole(tiff, page)
        values = page_levels(page, _planes_last(page, page.asarray(maxworkers=1)), how.no_data)
        if values.shape[:2] != shape[:2]:
            raise UnreadableImage("corrupt", f"page {i + 1} lacks lines")
        if len(found.pages) == 1:
            out = values
        else:
            out[..., i] = values[..., 0]
    if found.mask is not None:
        out[found.mask.asarray(maxworkers=1) == 0] = np.nan
    return Levels(np.ascontiguousarray(upright(out, found.orientation)), found.header.names)


def page_levels(
    page: TiffPage, values: NDArray[Any], no_data: Sequence[float] = ()
) -> NDArray[np.float32]:
    """Values [..., C] of a page, or of a part of it, as levels; NaN where nothing was measured.

    Colours of a palette become red, green, blue; where the lowest value is white, levels are turned
    round, but for channels beside the picture. Raises UnreadableImage.
    """
    declared = (*no_data, *_declared(page))
    if page.photometric == _PALETTE:
        table: Any = page.colormap
        if table is None or int(values.max(initial=0)) >= table.shape[1]:
            raise UnreadableImage("corrupt", "colours beyond the palette")
        missing = np.isin(values[..., 0], declared) if declared else None
        levels = to_levels(np.moveaxis(table[:, values[..., 0]], 0, -1))
        if missing is not None:
            levels[missing] = np.nan
        return levels
    bits = page.bitspersample if values.dtype.kind in "ui" else 0
    beside = len(page.extrasamples)
    if page.photometric != _WHITE_IS_ZERO or not beside:
        inverted = page.photometric == _WHITE_IS_ZERO
        return to_levels(values, bits=bits, inverted=inverted, no_data=declared)
    picture, others = np.split(values, [values.shape[-1] - beside], axis=-1)
    return np.concatenate(
        [
            to_levels(picture, bits=bits, inverted=True, no_data=declared),
            to_levels(others, bits=bits, no_data=declared),
        ],
        axis=-1,
    )


def require_whole(tiff: TiffFile, page: TiffPage) -> None:
    """Raise UnreadableImage where a page ends behind the end of the file."""
    end = tiff.filehandle.size
    places = zip(page.dataoffsets, page.databytecounts, strict=True)
    if any(start + size > end for start, size in places):
        raise UnreadableImage("truncated")


def _is_slide(tiff: TiffFile) -> bool:
    """Whether a scanner of slides wrote it, as told by its own words."""
    return tiff.is_svs or tiff.is_ndpi or tiff.is_scn or tiff.is_bif or tiff.is_philips


def _require_equal(pages: Sequence[TiffPage]) -> None:
    first = pages[0]
    if isinstance(first.bitspersample, tuple) or first.dtype is None:
        kinds = f"{first.bitspersample} bits in sample format {first.sampleformat}"
        raise UnreadableImage("unsupported TIFF layout", f"values of {kinds}")
    if first.imagedepth > 1:
        raise UnreadableImage(f"{first.imagedepth} pictures in depth", "write a file for each")
    if len(pages) > 1 and (first.samplesperpixel > 1 or first.photometric == _PALETTE):
        raise UnreadableImage(
            f"{len(pages)} pages of several channels each",
            "one page with all channels, or one for each, is read",
        )
    for number, page in enumerate(pages[1:], 2):
        if page.shape != first.shape:
            raise UnreadableImage(
                "pages of different sizes",
                f"page {number} is {page.imagewidth} x {page.imagelength}, the first "
                f"{first.imagewidth} x {first.imagelength}",
            )
        if page.dtype != first.dtype or page.bitspersample != first.bitspersample:
            raise UnreadableImage(
                "pages of different types",
                f"page {number} holds {page.dtype}, the first {first.dtype}",
            )


def _is_ordinary(page: TiffPage) -> bool:
    """Whether colours have to be converted. Raises UnreadableImage where nobody can."""
    plain = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, *_SENSOR)
    if page.photometric in plain or (
        page.photometric == _YCBCR and page.compression in _COLOUR_CODECS
    ):
        return False
    if page.bitspersample != 8 or page.samplesperpixel not in (3, 4):
        name = getattr(page.photometric, "name", page.photometric)
        raise UnreadableImage("unsupported TIFF layout", f"colours of kind {name}")
    return True


def _names(tiff: TiffFile, pages: Sequence[TiffPage], count: int) -> tuple[str, ...]:
    if pages[0].photometric == _PALETTE or _is_ordinary(pages[0]):
        return RGB
    if (named := page_names(tiff, pages, count)) is not None:
        return named
    numbers = [str(number) for number in range(1, count + 1)]
    if pages[0].photometric in (_RGB, _YCBCR) and count >= 3:
        numbers[:3] = RGB
    if pages[0].extrasamples and pages[0].extrasamples[0] in (1, 2):
        numbers[count - len(pages[0].extrasamples)] = "alpha"
    return tuple(numbers)


def _planes_last(page: TiffPage, values: NDArray[Any]) -> NDArray[Any]:
    """[H, W, C] of a page as tifffile gives it."""
    if values.ndim == 2:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def _declared(page: TiffPage) -> tuple[float, ...]:
    """The value that GDAL declares to be none."""
    text = page.tags.valueof(_NO_DATA, "")
    try:
        return (float(str(text).strip("\0 ").replace(",", ".")),)
    except ValueError:
        return ()


def _reason(error: Exception) -> tuple[str, str]:
    """Why tifffile gave no pixels: the kind, and its own words on one line."""
    words = " ".join(str(error).split())[:100]
    lower = words.lower()
    if isinstance(error, MemoryError):
        return "too much memory", ""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}", ""
    if "known compression" in lower or "requires the 'imagecodecs'" in lower:
        return "unknown compression", words
    if "failed to read" in lower or isinstance(error, EOFError):
        return "truncated", words
    if "not supported" in lower or isinstance(error, NotImplementedError):
        return "unsupported TIFF layout", words
    return "corrupt", words
