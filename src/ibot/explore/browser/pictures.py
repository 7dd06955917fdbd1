"""Pictures for the page: images and windows around patches as JPEG, sheets of windows as WebP."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from ibot.data.decode import UnreadableImage
from ibot.eval.features.views import View
from ibot.explore.browser.kept import Kept
from ibot.explore.browser.occurring import Kind, check_word, one_an_image
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session
from ibot.show.patterns import window_around

QUALITY = 85
"""Of JPEG and WebP, 1..100."""
WHOLE = 1024
"""Longer side of a whole image in pixels."""
ENLARGED, SHARP = 448, 900
"""Least and largest side of a view on the page; of a network that sees more, what it sees."""
FINER = 8
"""Windows are cut from views of at most so many times the size that the network sees."""
GAP = 2
"""Pixels between the windows of a word."""
COLUMNS = 8
"""Of a sheet of thumbnails."""
KEPT = 64 * 2**20
"""Bytes of pictures in memory."""
GRAY = (128, 128, 128)
"""Stands for what cannot be shown."""


def view_picture(session: Session, c: int | None, image: str) -> bytes:
    """The part of an image that the network sees, as sharp as the file has it. Raises Refused."""
    try:
        pixels, view = session.pictured().shown(image), session.view(c)
        # Enough that the browser need not blow up a few pixels; more where the file has more.
        least = math.ceil(ENLARGED / min(view.size))
        most = max(1, SHARP // max(view.size))
        times = min(max(_detail(view, pixels), least), most)
        return jpeg(Image.fromarray(view.enlarged(pixels, times)))
    except UnreadableImage as error:
        return jpeg(_missing(ENLARGED, str(error)))


def _detail(view: View, pixels: NDArray[np.uint8]) -> int:
    """How many pixels a side the file has for each that the network sees; about, 1 at least."""
    return max(1, round(min(pixels.shape[:2]) * 7 / 8 / min(view.size)))


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
    """The best occurrences of a word, one an image, in their surroundings (10.2), as WebP.

    Of class words whole views. count: at most; the square sheet has the size of so many tiles of so
    many pixels. Fewer are shown larger, and where there is none the page is seen. Raises Refused.
    """
    index = session.index(c)
    check_word(index, number, kind)
    key = ("mosaic", index.name, number, kind, count, side, pixels)

    def make() -> bytes:
        found = one_an_image(index, number, kind, count)
        columns = max(1, math.ceil(math.sqrt(len(found.row))))
        side_pixels = math.ceil(math.sqrt(count)) * pixels
        tile = (side_pixels - (columns - 1) * GAP) // columns
        tiles = []
        for row, patch in zip(found.row.tolist(), found.patch.tolist(), strict=True):
            image = str(int(index.index[row]))
            if kind == "patch":
                tiles.append(_window(session, c, image, patch, side, tile))
            else:
                tiles.append(_square(session, c, image, tile))
        return webp(_apart(tiles or [_missing(tile, "not used")], columns, side_pixels))

    return _kept(session).get(key, make)


def thumbnails(session: Session, images: Sequence[str], pixels: int) -> bytes:
    """A sheet of squares, `COLUMNS` in a row. Raises Refused."""

    def make() -> bytes:
        tiles = [_middle(session, image, pixels) for image in images]
        columns = min(COLUMNS, len(tiles))
        return jpeg(_sheet(tiles, pixels, columns))

    return _kept(session).get(("thumbs", tuple(images), pixels), make)


def jpeg(picture: Image.Image) -> bytes:
    """The bytes of a JPEG file."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def webp(picture: Image.Image) -> bytes:
    """The bytes of a WebP file."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, method=2)
    return stream.getvalue()


def _apart(tiles: Sequence[Image.Image], columns: int, pixels: int) -> Image.Image:
    """Square tiles row by row with `GAP` between, on a clear sheet of `pixels` a side."""
    whole = Image.new("RGBA", (pixels, pixels))
    step = tiles[0].width + GAP
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        whole.paste(tile, (column * step, row * step))
    return whole


def _sheet(tiles: Sequence[Image.Image], pixels: int, columns: int) -> Image.Image:
    """Square tiles of so many pixels, row by row without gaps, on gray."""
    rows = math.ceil(len(tiles) / columns)
    whole = Image.new("RGB", (columns * pixels, rows * pixels), GRAY)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        whole.paste(tile, (column * pixels, row * pixels))
    return whole


def _window(
    session: Session, c: int | None, image: str, patch: int, side: int, pixels: int
) -> Image.Image:
    try:
        whole = session.pictured().shown(image)
        view, grid = session.view(c), session.grid(c)
        cell = view.size[0] // grid[0]
        # From the file's own pixels, where it has more than the network sees.
        scale = min(FINER, math.ceil(pixels / (side * cell)), _detail(view, whole))
        seen = view.enlarged(whole, scale)
        window = window_around(seen, divmod(patch, grid[1]), cell * scale, side)
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
        whole = session.pictured().shown(image)
        view = session.view(c)
        scale = min(FINER, math.ceil(pixels / min(view.size)))
        seen = Image.fromarray(view.enlarged(whole, scale))
    except UnreadableImage as error:
        return _missing(pixels, str(error))
    return _on_square(_fitted(seen, pixels), pixels)


def _thumbnail(session: Session, image: str, longest: int) -> Image.Image:
    try:
        picture = Image.fromarray(session.pictured().shown(image))
    except UnreadableImage as error:
        return _missing(longest, str(error))
    return _fitted(picture, longest)


def _middle(session: Session, image: str, pixels: int) -> Image.Image:
    """The largest square in the middle of an image, so that a map holds no empty margins."""
    try:
        picture = Image.fromarray(session.pictured().shown(image))
    except UnreadableImage as error:
        return _missing(pixels, str(error))
    return ImageOps.fit(picture, (pixels, pixels), Image.Resampling.BICUBIC)


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
