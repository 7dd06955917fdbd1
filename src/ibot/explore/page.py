"""What a search found, as one page of pictures and as a table.

The page is a single static file: thumbnails are embedded, nothing is fetched and nothing is
executed, so it can be sent to a colleague or opened on a telephone as it is.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.system.files import replacing

THUMBNAIL = 192
"""Longer side of an embedded picture in pixels: sharp on a telephone, about 10 kB."""
QUALITY = 80
"""Of JPEG, 1..100."""
MAX_GROUPS = 50
MAX_PICTURES = 12
"""Shown per group of near-duplicates; with both limits the page stays small where all images
look alike."""

Read = Callable[[int], NDArray[np.uint8]]
"""Image by its number: uint8 [H, W, 3]. Raises UnreadableImage."""


@dataclass(frozen=True, slots=True)
class Square:
    """A patch and its place on the picture as it is read; sides in shares of the picture's height
    and width, 0..1.
    """

    row: int
    """On the grid of patches, from 0."""
    column: int
    top: float
    left: float
    height: float
    width: float

    @classmethod
    def on_grid(cls, patch: int, grid: tuple[int, int]) -> Square:
        """Patch number `patch`, row by row, of a picture that (h, w) patches cover.

        Raises:
            ValueError: the grid has no such patch.
        """
        rows, columns = grid
        if not 0 <= patch < rows * columns:
            raise ValueError(f"there is no patch {patch} on a grid of {rows} x {columns}")
        row, column = divmod(patch, columns)
        return cls(row, column, row / rows, column / columns, 1 / rows, 1 / columns)

    def __str__(self) -> str:
        return f"patch in row {self.row}, column {self.column}"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the page."""

    index: int
    """Number of the image, by which it is read; below 0 for one that has no number among the
    images searched."""
    name: str
    """Any text, such as a path with undecodable bytes as surrogates."""
    similarity: float | None = None
    """Cosine; None where there is nothing to compare with, as for a query."""
    square: Square | None = None
    """The patch meant; None for the whole image."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """A query and its answers, the most similar first."""

    query: Picture
    answers: Sequence[Picture]

    @property
    def label(self) -> str:
        """Name of the query, and its patch if it is one."""
        return (
            self.query.name
            if self.query.square is None
            else f"{self.query.name}, {self.query.square}"
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Near-duplicates of the first of them."""

    pictures: Sequence[Picture]
    """Each with its similarity to the first, which has 1."""

    @property
    def smallest(self) -> float:
        """Smallest similarity to the first."""
        return min(
            picture.similarity for picture in self.pictures if picture.similarity is not None
        )


@dataclass(frozen=True, slots=True)
class Duplicates:
    """All groups of near-duplicates."""

    threshold: float
    """Cosine to the first image of a group from which an image belongs to it."""
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search found."""

    nearest: Sequence[Nearest] = ()
    duplicates: Duplicates | None = None
    """None: not sought."""
    outliers: Sequence[Picture] | None = None
    """The strangest first, each with its mean similarity to its neighbours; None: not sought."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    kind: str
    """nearest, patch (nearest to one patch), near-duplicate or outlier."""
    group_or_query: str
    """Number of the group from 1, or name of the query; empty for outliers."""
    query_row: int | None
    """Patch of the query, counted from 0; as all four, None for whole images."""
    query_column: int | None
    rank: int
    """From 1, as on the page."""
    name: str
    row: int | None
    """Patch of the answer."""
    column: int | None
    similarity: float | None
    """Cosine: to the query, to the first image of the group, or the mean of those to the
    neighbours."""


def write_page(findings: Findings, read: Read, path: Path, title: str) -> None:
    """Write the findings as an HTML page with sections for each query, near-duplicates and
    outliers.

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
    with _replacing(path) as file:
        file.writelines(_page(findings, read, title))


def csv_rows(findings: Findings) -> Iterator[Row]:
    """All findings as lines of the table, also those for which the page has no room."""
    for found in findings.nearest:
        kind = "nearest" if found.query.square is None else "patch"
        for rank, picture in enumerate(found.answers, 1):
            yield _row(kind, found.query.name, rank, picture, found.query.square)
    groups = findings.duplicates.groups if findings.duplicates else ()
    for number, group in enumerate(groups, 1):
        for rank, picture in enumerate(group.pictures, 1):
            yield _row("near-duplicate", str(number), rank, picture)
    for rank, picture in enumerate(findings.outliers or (), 1):
        yield _row("outlier", "", rank, picture)


def _row(
    kind: str, group_or_query: str, rank: int, picture: Picture, asked: Square | None = None
) -> Row:
    """A line of the table; `asked` is the query's patch."""
    query, answer = (
        (square.row, square.column) if square else (None, None)
        for square in (asked, picture.square)
    )
    return Row(kind, group_or_query, *query, rank, picture.name, *answer, picture.similarity)


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the lines below a header with the names of Row's fields.

    UTF-8; bytes of a name that are no UTF-8 are written as they are, so that the table names the
    files that exist. The file appears whole or, after an error, not at all. Raises OSError when it
    cannot be written.
    """
    with _replacing(path) as file:
        # Its lines end in CR LF: with any other end some versions of Python leave a CR in a name
        # without quotes.
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            *cells, similarity = astuple(row)
            number = "" if similarity is None else f"{similarity:.6f}"
            texts = ["" if cell is None else _NO_BYTE.sub("\ufffd", str(cell)) for cell in cells]
            writer.writerow([*texts, number])


_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file name; no encoding has a place for them."""
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Controls and surrogates, which HTML cannot hold."""

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark;
  --ink: #1f2430; --quiet: #626a7a; --paper: #fff; --box: #d4d7dd; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e4e7ee; --quiet: #a0a8b8; --paper: #15181e; --box: #3a3f4a; }}
}}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; }}
h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
h3 {{ font-size: 1rem; }}
p, small {{ color: var(--quiet); }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem;
  padding: 0; list-style: none; }}
figure {{ margin: 0; }}
figcaption {{ font-size: .85rem; line-height: 1.3; margin-top: .3rem; }}
small {{ display: block; font-size: .8rem; font-variant-numeric: tabular-nums; }}
.frame {{ display: inline-block; position: relative; line-height: 0; max-width: 100%; }}
.frame img {{ display: block; max-width: 100%; height: auto; }}
.query img {{ outline: 3px solid var(--quiet); outline-offset: 2px; }}
.square {{ position: absolute; outline: 2px solid #fff; box-shadow: 0 0 0 4px #000; }}
.missing {{ display: flex; align-items: center; justify-content: center; box-sizing: border-box;
  aspect-ratio: 1; max-width: {side}px; padding: .5rem; background: var(--box); line-height: 1.3;
  text-align: center; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Similarities are cosines between features; 1 is the highest.</p>
"""


def _page(findings: Findings, read: Read, title: str) -> Iterator[str]:
    yield _HEAD.format(title=_text(title), side=THUMBNAIL)
    for found in findings.nearest:
        yield f"<section>\n<h2>Nearest to <bdi>{_text(found.label)}</bdi></h2>\n"
        if found.query.square is not None:
            yield "<p>Rows and columns of patches count from 0.</p>\n"
        yield from _pictures(found.answers, read, query=found.query)
        yield "</section>\n"
    if findings.duplicates is not None:
        yield from _duplicates(findings.duplicates, read)
    if findings.outliers is not None:
        yield (
            "<section>\n<h2>Outliers</h2>\n<p>The strangest first: images that resemble even "
            "their nearest "
        )
        yield "neighbours little. The number is the mean similarity to these neighbours.</p>\n"
        yield from _pictures(findings.outliers, read)
        yield "</section>\n"
    yield "</body>\n</html>\n"


def _duplicates(duplicates: Duplicates, read: Read) -> Iterator[str]:
    groups = duplicates.groups
    yield "<section>\n<h2>Near-duplicates</h2>\n"
    yield "<p>Groups of images with a similarity to the first of the group of "
    yield f"{duplicates.threshold:g} or more: {len(groups)}"
    yield (
        f", of which the first {MAX_GROUPS} are shown.</p>\n"
        if len(groups) > MAX_GROUPS
        else ".</p>\n"
    )
    for number, group in enumerate(groups[:MAX_GROUPS], 1):
        count = len(group.pictures)
        yield (
            f"<h3>Group {number}: {count} images, smallest similarity to the first "
            f"{group.smallest:.3f}</h3>\n"
        )
        if count > MAX_PICTURES:
            yield f"<p>The first {MAX_PICTURES} are shown.</p>\n"
        yield from _pictures(group.pictures[:MAX_PICTURES], read)
    yield "</section>\n"


def _pictures(
    pictures: Sequence[Picture], read: Read, query: Picture | None = None
) -> Iterator[str]:
    if query is not None or pictures:
        yield "<ul>\n"
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
        f"<figcaption><bdi>{_text(picture.name)}</bdi> "
        f"<small>{' &middot; '.join(facts)}</small></figcaption>"
    )
    return f"<figure>{_frame(picture, read, _alt(picture, role))}{caption}</figure>"


def _alt(picture: Picture, role: str) -> str:
    number = f" {picture.index}" if picture.index >= 0 else ""
    patch = f", {picture.square} marked" if picture.square is not None else ""
    return _text(f"{role}{number}: {picture.name}{patch}")


def _frame(picture: Picture, read: Read, alt: str) -> str:
    try:
        image = read(picture.index)
    except UnreadableImage as error:
        reason = _text(error.reason)
        return (
            f'<div class="missing" role="img" aria-label="{alt}, unreadable: '
            f'{reason}">{reason}</div>'
        )
    small = _thumbnail(image)
    data = base64.b64encode(_jpeg(small)).decode()
    element = (
        f'<img src="data:image/jpeg;base64,{data}" alt="{alt}" width="{small.width}" '
        f'height="{small.height}">'
    )
    square = (
        ""
        if picture.square is None
        else f'<span class="square" style="{_place(picture.square)}"></span>'
    )
    return f'<span class="frame">{element}{square}</span>'


def _thumbnail(image: NDArray[np.uint8]) -> Image.Image:
    """Picture with a longer side of THUMBNAIL pixels; small images are enlarged so that their
    pixels can be seen.
    """
    picture = Image.fromarray(image)
    scale = THUMBNAIL / max(picture.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, method)


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def _place(square: Square) -> str:
    sides = {"top": square.top, "left": square.left, "height": square.height, "width": square.width}
    return ";".join(f"{side}:{100 * share:.3f}%" for side, share in sides.items())


def _text(text: str) -> str:
    r"""Text for HTML, between tags and in quotes; what cannot be shown becomes an escape such as
    \udce9.
    """
    shown = _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return html.escape(shown, quote=True)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends well."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file
