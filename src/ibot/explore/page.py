"""What a search found, as one page of pictures.

The page is a single static file: thumbnails are embedded, nothing is fetched and nothing is
executed, so it can be sent to a colleague or opened on a telephone as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.explore.evidence import evidence, told
from ibot.explore.findings import Compared, Duplicates, Findings, Group, Picture, Square
from ibot.report.html import END, escaped, head, image, name, thumbnail
from ibot.system.files import replacing
from ibot.words import counted

THUMBNAIL = 208
"""Longer side of an embedded picture in pixels: sharp on a telephone, about 12 kB."""
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
.pictures { grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
figcaption { overflow-wrap: anywhere; }
nav ul { columns: 18rem; }
"""
"""CSS beside that of all pages."""

Read = Callable[[int], NDArray[np.uint8]]
"""Image by its number: uint8 [H, W, 3]. Raises UnreadableImage."""
Link = Callable[[int], str]
"""Address of an image's file by its number; empty where it is no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where the page gets its pictures from."""

    read: Read
    view: Read
    link: Link

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        return (self.read if picture.square is None else self.view)(picture.index)


def write_page(
    findings: Findings,
    read: Read,
    path: Path,
    title: str,
    *,
    view: Read | None = None,
    link: Link | None = None,
) -> None:
    """Write the findings as an HTML page: each query, near-duplicates, outliers.

    At most MAX_GROUPS groups with MAX_PICTURES pictures each are shown; the page says so. An image
    that cannot be read is a gray box with the reason. The file appears whole or, after an error,
    not at all.

    Args:
        findings: what to show.
        read: gives the pixels of a picture by its index; called for one picture after the other.
        path: the file to write.
        title: one line.
        view: gives those on which squares lie; None: as `read`.
        link: gives the address of the file behind a picture; None: there are none.

    Raises:
        OSError: the file cannot be written.
    """
    sources = _Sources(read=read, view=view or read, link=link or (lambda _: ""))
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        file.writelines(_page(findings, sources, title))


def _page(findings: Findings, sources: _Sources, title: str) -> Iterator[str]:
    yield head(title, STYLE)
    yield f"<h1>{escaped(title)}</h1>\n"
    yield "<p>Similarities are cosines between features; 1 is the highest.</p>\n"
    if findings.compared is not None:
        yield _about(findings.compared)
    yield from _contents(findings)
    for number, found in enumerate(findings.nearest, 1):
        yield f'<section id="nearest-{number}">\n<h2>Nearest to {name(found.label)}</h2>\n'
        if found.query.square is not None:
            yield "<p>Rows and columns of patches count from 0.</p>\n"
        yield from _pictures(found.answers, sources, query=found.query)
        yield "</section>\n"
    if findings.duplicates is not None:
        yield from _duplicates(findings.duplicates, sources)
    if findings.outliers is not None:
        yield '<section id="outliers">\n<h2>Outliers</h2>\n'
        yield "<p>The strangest first: images that resemble even their nearest neighbours little. "
        yield "The number is the mean similarity to these neighbours.</p>\n"
        yield from _pictures(findings.outliers, sources)
        yield "</section>\n"
    yield END


def _about(compared: Compared) -> str:
    """What was compared, and how the network saw it."""
    seen = ""
    if compared.view is not None and compared.grid is not None:
        (height, width), (rows, columns) = compared.view, compared.grid
        seen = (
            f", seen by {name(compared.network)} as {height} x {width} pixels: {rows} rows and "
            f"{columns} columns of patches"
        )
    unread = f"; {counted(len(compared.bad), 'image')} could not be read" if compared.bad else ""
    return (
        f"<p>{counted(compared.count, 'image')} of {name(compared.folder)}{seen}{unread}. Pictures "
        "are whole images, those with a square the part that the network sees. Names are paths in "
        "that folder; a picture that is a link opens its file, as long as page and images lie "
        "where they lay.</p>\n"
    )


def _contents(findings: Findings) -> Iterator[str]:
    """Links to the sections, where there is more than one."""
    parts = [
        (f"nearest-{number}", f"Nearest to {name(found.label)}")
        for number, found in enumerate(findings.nearest, 1)
    ]
    if findings.duplicates is not None:
        parts.append(("near-duplicates", f"Near-duplicates: {len(findings.duplicates.groups)}"))
    if findings.outliers is not None:
        parts.append(("outliers", "Outliers"))
    if len(parts) > 1:
        yield "<nav><ul>\n"
        yield from (f'<li><a href="#{place}">{text}</a></li>\n' for place, text in parts)
        yield "</ul></nav>\n"


def _duplicates(duplicates: Duplicates, sources: _Sources) -> Iterator[str]:
    groups = duplicates.groups
    yield '<section id="near-duplicates">\n<h2>Near-duplicates</h2>\n'
    yield f"<p>{told(duplicates)}: {len(groups)}"
    yield f", of which the first {MAX_GROUPS} are shown" if len(groups) > MAX_GROUPS else ""
    yield ".</p>\n"
    if duplicates.evidence is not None:
        yield from evidence(duplicates.evidence)
    for number, group in enumerate(groups[:MAX_GROUPS], 1):
        count = len(group.pictures)
        yield f"<h3>Group {number}: {count} images, {_least(group)}</h3>\n"
        if count > MAX_PICTURES:
            yield f"<p>The first {MAX_PICTURES} are shown.</p>\n"
        yield from _pictures(group.pictures[:MAX_PICTURES], sources)
    yield "</section>\n"


def _least(group: Group) -> str:
    """The least that two images of a group have in common."""
    if group.least is None:
        return f"smallest similarity to the first {group.smallest:.3f}"
    agreed = "" if group.agreement is None else f", smallest agreement {group.agreement:.3f}"
    return f"smallest similarity of two {group.least:.3f}{agreed}"


def _pictures(
    pictures: Sequence[Picture], sources: _Sources, query: Picture | None = None
) -> Iterator[str]:
    if query is not None or pictures:
        yield '<ul class="pictures">\n'
        if query is not None:
            yield f'<li class="query">{_figure(query, sources, "query")}</li>\n'
        for picture in pictures:
            yield f"<li>{_figure(picture, sources)}</li>\n"
        yield "</ul>\n"
    if not pictures:
        yield "<p>None found.</p>\n"


def _figure(picture: Picture, sources: _Sources, role: str = "image") -> str:
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
    frame = _frame(picture, sources, _alt(picture, role))
    address = sources.link(picture.index)
    if address:
        frame = f'<a href="{escaped(address)}">{frame}</a>'
    return f"<figure>{frame}{caption}</figure>"


def _alt(picture: Picture, role: str) -> str:
    number = f" {picture.index}" if picture.index >= 0 else ""
    patch = f", {picture.square} marked" if picture.square is not None else ""
    return f"{role}{number}: {picture.name}{patch}"


def _frame(picture: Picture, sources: _Sources, alt: str) -> str:
    try:
        pixels = sources.pixels(picture)
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
