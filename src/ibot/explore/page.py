"""What a search found, as one page of pictures.

The page is a single static file: thumbnails are embedded, nothing is fetched and nothing is
executed, so it can be sent to a colleague or opened on a telephone as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.explore.findings import Duplicates, Findings, Picture, Square
from ibot.report.html import END, escaped, head, image, name, thumbnail
from ibot.system.files import replacing

THUMBNAIL = 192
"""Longer side of an embedded picture in pixels: sharp on a telephone, about 10 kB."""
MAX_GROUPS = 50
MAX_PICTURES = 12
"""Shown per group of near-duplicates; so the page stays small where all images look alike."""
STYLE = """
.page > p, .page section > p { color: var(--quiet); }
.frame { display: block; position: relative; width: fit-content; max-width: 100%; }
.frame img { display: block; max-width: 100%; height: auto; }
.query img { outline: 3px solid var(--accent); outline-offset: 2px; }
.square { position: absolute; outline: 2px solid #fff; box-shadow: 0 0 0 4px #000; }
.missing { max-width: 9rem; }
"""
"""CSS beside that of all pages."""

Read = Callable[[int], NDArray[np.uint8]]
"""Image by its number: uint8 [H, W, 3]. Raises UnreadableImage."""


def write_page(findings: Findings, read: Read, path: Path, title: str) -> None:
    """Write the findings as an HTML page: each query, near-duplicates, outliers.

    At most MAX_GROUPS groups with MAX_PICTURES pictures each are shown; the page says so. An image
    that cannot be read is a gray box with the reason. The file appears whole or, after an error,
    not at all.

    Args:
        findings: what to show.
        read: gives the pixels of a picture by its index; called for one picture after the other.
        path: the file to write.
        title: one line.

    Raises:
        OSError: the file cannot be written.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        file.writelines(_page(findings, read, title))


def _page(findings: Findings, read: Read, title: str) -> Iterator[str]:
    yield head(title, STYLE)
    yield f"<h1>{escaped(title)}</h1>\n"
    yield "<p>Similarities are cosines between features; 1 is the highest.</p>\n"
    for found in findings.nearest:
        yield f"<section>\n<h2>Nearest to {name(found.label)}</h2>\n"
        if found.query.square is not None:
            yield "<p>Rows and columns of patches count from 0.</p>\n"
        yield from _pictures(found.answers, read, query=found.query)
        yield "</section>\n"
    if findings.duplicates is not None:
        yield from _duplicates(findings.duplicates, read)
    if findings.outliers is not None:
        yield "<section>\n<h2>Outliers</h2>\n"
        yield "<p>The strangest first: images that resemble even their nearest neighbours little. "
        yield "The number is the mean similarity to these neighbours.</p>\n"
        yield from _pictures(findings.outliers, read)
        yield "</section>\n"
    yield END


def _duplicates(duplicates: Duplicates, read: Read) -> Iterator[str]:
    groups = duplicates.groups
    yield "<section>\n<h2>Near-duplicates</h2>\n"
    yield "<p>Groups of images with a similarity to the first of the group of "
    yield f"{duplicates.threshold:g} or more: {len(groups)}"
    yield f", of which the first {MAX_GROUPS} are shown" if len(groups) > MAX_GROUPS else ""
    yield ".</p>\n"
    for number, group in enumerate(groups[:MAX_GROUPS], 1):
        count = len(group.pictures)
        yield f"<h3>Group {number}: {count} images, smallest similarity to the first "
        yield f"{group.smallest:.3f}</h3>\n"
        if count > MAX_PICTURES:
            yield f"<p>The first {MAX_PICTURES} are shown.</p>\n"
        yield from _pictures(group.pictures[:MAX_PICTURES], read)
    yield "</section>\n"


def _pictures(
    pictures: Sequence[Picture], read: Read, query: Picture | None = None
) -> Iterator[str]:
    if query is not None or pictures:
        yield '<ul class="pictures">\n'
        if query is not None:
            yield f'<li class="query">{_figure(query, read, "query")}</li>\n'
        for picture in pictures:
            yield f"<li>{_figure(picture, read)}</li>\n"
        yield "</ul>\n"
    if not pictures:
        yield "<p>None found.</p>\n"


def _figure(picture: Picture, read: Read, role: str = "image") -> str:
    facts = [] if role == "image" else [role]
    if picture.index >= 0:
        facts.append(f"#{picture.index}")
    if picture.square is not None:
        facts.append(str(picture.square))
    if picture.similarity is not None:
        facts.append(f"{picture.similarity:.3f}")
    caption = (
        f"<figcaption>{name(picture.name)} <small>{' &middot; '.join(facts)}</small></figcaption>"
    )
    return f"<figure>{_frame(picture, read, _alt(picture, role))}{caption}</figure>"


def _alt(picture: Picture, role: str) -> str:
    number = f" {picture.index}" if picture.index >= 0 else ""
    patch = f", {picture.square} marked" if picture.square is not None else ""
    return f"{role}{number}: {picture.name}{patch}"


def _frame(picture: Picture, read: Read, alt: str) -> str:
    try:
        pixels = read(picture.index)
    except UnreadableImage as error:
        label = escaped(f"{alt}, unreadable: {error.reason}")
        reason = escaped(error.reason)
        return f'<div class="missing" role="img" aria-label="{label}">{reason}</div>'
    element = image(thumbnail(Image.fromarray(pixels), THUMBNAIL), alt)
    square = ""
    if picture.square is not None:
        square = f'<span class="square" style="{_place(picture.square)}"></span>'
    return f'<span class="frame">{element}{square}</span>'


def _place(square: Square) -> str:
    sides = {"top": square.top, "left": square.left, "height": square.height, "width": square.width}
    return ";".join(f"{side}:{100 * share:.3f}%" for side, share in sides.items())
