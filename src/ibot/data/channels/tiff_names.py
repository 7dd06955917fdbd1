"""What a TIFF calls its channels: OME, GDAL, ImageJ and names of pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_GDAL_METADATA, _PAGE_NAME = 42112, 285
LONGEST = 64
"""Letters of a name; what is longer describes an image."""


def page_names(tiff: TiffFile, pages: Sequence[TiffPage], count: int) -> tuple[str, ...] | None:
    """Names of `count` channels where the file has one for each, all different; else None."""
    for found in (_ome(tiff), _gdal(pages[0]), _imagej(tiff), _of_pages(pages)):
        names = tuple(" ".join(name.replace(",", " ").split()) for name in found)
        if len(names) == len(set(names)) == count and all(0 < len(n) <= LONGEST for n in names):
            return names
    return None


def pictures_in_depth(tiff: TiffFile, pages: int) -> int:
    """How many pictures lie behind or after one another, so that a page is no channel.

    pages: that have a header; more that a file says to have without one are such pictures too.
    """
    if (pixels := _ome_pixels(tiff)) is not None:
        sizes = (pixels.get("SizeZ", "1"), pixels.get("SizeT", "1"))
        return prod(int(size) for size in sizes if size.isdigit())
    if tiff.is_imagej and (about := tiff.imagej_metadata):
        deep = int(about.get("slices", 1)) * int(about.get("frames", 1))
        # Without a word on what they are, `images` are pages like any other.
        return max(deep, -(-int(about.get("images", 1)) // max(1, pages)))
    page: Any = tiff.pages[0]
    if page.is_shaped:
        with suppress(ValueError, TypeError, KeyError):
            told = prod(json.loads(page.shaped_description)["shape"])
            return max(1, told // max(1, pages * prod(page.shape)))
    return 1


def _ome_pixels(tiff: TiffFile) -> dict[str, Any] | None:
    root = _parsed(tiff.ome_metadata or "")
    pixels = None if root is None else next(root.iterfind(".//{*}Pixels"), None)
    return None if pixels is None else dict(pixels.attrib)


def _ome(tiff: TiffFile) -> list[str]:
    root = _parsed(tiff.ome_metadata or "")
    pixels = None if root is None else next(root.iterfind(".//{*}Pixels"), None)
    return [] if pixels is None else [c.get("Name", "") for c in pixels.iterfind("{*}Channel")]


def _gdal(page: TiffPage) -> list[str]:
    """Descriptions of bands, by their number from 0."""
    root = _parsed(str(page.tags.valueof(_GDAL_METADATA, "")).strip("\0 "))
    items = [] if root is None else root.iterfind("Item[@role='description']")
    told = {item.get("sample", ""): item.text or "" for item in items}
    return [told.get(str(number), "") for number in range(len(told))]


def _imagej(tiff: TiffFile) -> list[str]:
    labels = (tiff.imagej_metadata or {}).get("Labels", []) if tiff.is_imagej else []
    return [str(label) for label in ([labels] if isinstance(labels, str) else labels)]


def _of_pages(pages: Sequence[TiffPage]) -> list[str]:
    if len(pages) < 2:
        return []
    return [str(page.tags.valueof(_PAGE_NAME, "")) or page.description for page in pages]


def _parsed(text: str) -> ElementTree.Element | None:
    """XML without declarations of entities: those may be made to fill the memory."""
    if not text.startswith("<") or "<!" in text.replace("<!--", ""):
        return None
    with suppress(ElementTree.ParseError):
        return ElementTree.fromstring(text)
    return None
