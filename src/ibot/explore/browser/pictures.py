"""Pictures for the page, as JPEG: whole images, windows around patches, and sheets of both."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ibot.data.decode import UnreadableImage
from ibot.explore.browser.kept import Kept
from ibot.explore.browser.occurring import Kind, check_word, one_an_image
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.rendering import render
from ibot.explore.browser.session import Session

QUALITY = 85
"""Of JPEG, 1..100."""
WHOLE = 1024
"""Longer side of a whole image in pixels."""
ENLARGED = 448
"""Least side of a view on the page."""
FINER = 8
"""Windows are cut from views of at most so many times the size that the network sees."""
COLUMNS = 8
"""Of a sheet of thumbnails."""
KEPT = 64 * 2**20
"""Bytes of pictures in memory."""
GRAY = (128, 128, 128)
"""Stands for what cannot be shown."""


def view_picture(session: Session, c: int | None, image: str) -> bytes:
    """What the network sees, each of its pixels a square of the page's. Raises Refused."""
    try:
        seen = session.view(c).render(session.pictured().pixels(image))
    except UnreadableImage as error:
        return jpeg(_missing(ENLARGED, str(error)))
    times = max(1, math.ceil(ENLARGED / min(seen.shape[:2])))
    return jpeg(Image.fromarray(seen.repeat(times, axis=0).repeat(times, axis=1)))


def whole_picture(session: Session, image: str, longest: int = WHOLE) -> bytes:
    """The whole image, its longer side at most `longest` pixels. Raises Refused."""
    return jpeg(_thumbnail(session, image, longest))


def window_picture(
    session: Session, c: int | None, image: str, patch: int, side: int, pixels: int
) -> bytes:
    """One window of `side` x `side` patches around a patch. Raises Refused."""
    grid = session.grid(c)
    if patch >= math.prod(grid):
        raise Refused(404, f"there is no patch {patch}", why=f"the view has {math.prod(grid)}")
    return jpeg(_window(session, c, image, patch, side, pixels))


def mosaic(
    session: Session, c: int | None, number: int, kind: Kind, count: int, side: int, pixels: int
) -> bytes:
    """The best occurrences of a word, one an image, in their surroundings (10.2): a square sheet.

    Of class words whole views. count: at most; the sheet has the size of so many tiles of so many
    pixels, whatever the number there is. Raises Refused.
    """
    index = session.index(c)
    check_word(index, number, kind)
    key = ("mosaic", index.name, number, kind, count, side, pixels)

    def make() -> bytes:
        found = one_an_image(index, number, kind, count)
        # Fewer are shown larger: the sheet keeps its size.
        columns = max(1, math.ceil(math.sqrt(len(found.row))))
        tile = math.ceil(math.sqrt(count)) * pixels // columns
        tiles = []
        for row, patch in zip(found.row.tolist(), found.patch.tolist(), strict=True):
            image = str(int(index.index[row]))
            if kind == "patch":
                tiles.append(_window(session, c, image, patch, side, tile))
            else:
                tiles.append(_square(session, c, image, tile))
        return jpeg(sheet(tiles or [_missing(tile, "not used")], tile, columns, columns))

    return _kept(session).get(key, make)


def thumbnails(session: Session, images: Sequence[str], pixels: int) -> bytes:
    """A sheet of squares, `COLUMNS` in a row. Raises Refused."""

    def make() -> bytes:
        tiles = [_on_square(_thumbnail(session, image, pixels), pixels) for image in images]
        columns = min(COLUMNS, len(tiles))
        return jpeg(sheet(tiles, pixels, columns, math.ceil(len(tiles) / columns)))

    return _kept(session).get(("thumbs", tuple(images), pixels), make)


def jpeg(picture: Image.Image) -> bytes:
    """The bytes of a JPEG file."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def sheet(tiles: Sequence[Image.Image], pixels: int, columns: int, rows: int) -> Image.Image:
    """Square tiles of so many pixels, row by row, on gray."""
    whole = Image.new("RGB", (columns * pixels, rows * pixels), GRAY)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        whole.paste(tile, (column * pixels, row * pixels))
    return whole


def cut(view: NDArray[np.uint8], cell: int, place: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """The window of `side` x `side` patches of `cell` pixels around one: [side*cell, side*cell, 3].

    place: its row and column. Black beyond the view.
    """
    reach = side // 2
    window = np.zeros((side * cell, side * cell, 3), np.uint8)
    top, left = ((index - reach) * cell for index in place)
    part = view[max(0, top) : max(0, top + side * cell), max(0, left) : max(0, left + side * cell)]
    down, right = max(0, -top), max(0, -left)
    window[down : down + part.shape[0], right : right + part.shape[1]] = part
    return window


def _window(
    session: Session, c: int | None, image: str, patch: int, side: int, pixels: int
) -> Image.Image:
    try:
        whole = session.pictured().pixels(image)
        view, grid = session.view(c), session.grid(c)
        cell = view.size[0] // grid[0]
        # From the file's own pixels, where it has more than the network sees.
        finest = min(whole.shape[:2]) * 7 / 8 / min(view.size)
        scale = max(1, min(FINER, math.ceil(pixels / (side * cell)), round(finest)))
        window = cut(render(view, whole, scale), cell * scale, divmod(patch, grid[1]), side)
    except UnreadableImage as error:
        return _missing(pixels, str(error))
    picture = Image.fromarray(window).resize((pixels, pixels), Image.Resampling.BICUBIC)
    low, high = side // 2 * pixels / side, (side // 2 + 1) * pixels / side
    draw = ImageDraw.Draw(picture)
    # Seen on any ground: light within dark.
    draw.rectangle((low - 1, low - 1, high, high), outline=(0, 0, 0))
    draw.rectangle((low, low, high - 1, high - 1), outline=(255, 255, 255))
    return picture


def _square(session: Session, c: int | None, image: str, pixels: int) -> Image.Image:
    """The view of an image as a tile."""
    try:
        whole = session.pictured().pixels(image)
        view = session.view(c)
        scale = max(1, min(FINER, round(pixels / min(view.size))))
        seen = Image.fromarray(render(view, whole, scale))
    except UnreadableImage as error:
        return _missing(pixels, str(error))
    return _on_square(_fitted(seen, pixels), pixels)


def _thumbnail(session: Session, image: str, longest: int) -> Image.Image:
    try:
        picture = Image.fromarray(session.pictured().pixels(image))
    except UnreadableImage as error:
        return _missing(longest, str(error))
    return _fitted(picture, longest)


def _fitted(picture: Image.Image, longest: int) -> Image.Image:
    """Reduced until its longer side has so many pixels; smaller ones stay."""
    picture.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture


def _on_square(picture: Image.Image, pixels: int) -> Image.Image:
    tile = Image.new("RGB", (pixels, pixels), GRAY)
    tile.paste(picture, ((pixels - picture.width) // 2, (pixels - picture.height) // 2))
    return tile


def _missing(pixels: int, why: str) -> Image.Image:
    """A gray square that is crossed out, with the reason where there is room."""
    picture = Image.new("RGB", (pixels, pixels), GRAY)
    draw = ImageDraw.Draw(picture)
    draw.line((0, 0, pixels, pixels), fill=(170, 170, 170))
    draw.line((0, pixels, pixels, 0), fill=(170, 170, 170))
    if pixels >= 128:
        text = why.encode("ascii", "replace").decode()
        draw.text((8, pixels // 2 - 6), text[: pixels // 6], fill=(255, 255, 255))
    return picture


def _kept(session: Session) -> Kept[bytes]:
    return session.keep("pictures", lambda: Kept(KEPT, len))
