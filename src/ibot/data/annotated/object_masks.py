"""Masks of objects in a video: images of numbers, 0 where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.config.reading import MAX_PIXELS
from ibot.data.annotated.frames import Video, VideoFrames
from ibot.data.decode import UnreadableImage, image_size, open_image
from ibot.data.quiet import quiet
from ibot.errors import DataError

VOID = 255
"""Neither object nor background; where it is the only number beside 0, the object."""
MOST_OBJECTS = 100
"""More different numbers in a mask are levels of gray, of blurred edges for example."""
_INDEX_MODES = ("1", "L", "P", "I;16")
_REMEDY = (
    "save it as a PNG of one band or with a palette: 0 for the background and a number for each "
    "object, edges not smoothed"
)


@dataclass(frozen=True, slots=True)
class VideoObjects:
    """The objects of the first mask of a video, and how numbers in its files are read."""

    first: NDArray[np.uint8]
    """[H, W], 0 or the number of an object."""
    numbers: tuple[int, ...]
    """Of the objects, rising."""
    table: NDArray[np.uint8]
    """[256], what a number in a file means."""
    palette: tuple[int, ...] | None
    """Red, green, blue of 0, 1, ... in the file; None: it has none."""
    year: str
    """How they are read: "2016" as one object, "2017" as one each."""

    def read(self, file: str | Path) -> NDArray[np.uint8]:
        """A mask of another frame [H, W]. Raises DataError."""
        return self.table[read_numbers(file)[0]]


def open_objects(frames: VideoFrames, video: Video, year: str = "auto") -> VideoObjects:
    """The objects of a video, after a look at the sizes of all of its frames and masks.

    year: "2017": each number is an object, 255 is none; "2016": all that is not 0 is one object;
    "auto": as in 2016 where the first mask holds 0 and 255 alone. Raises DataError.
    """
    check_sizes(frames, video)
    file = video.masks[0]
    assert file is not None
    numbers, palette = read_numbers(file)
    found = set(np.unique(numbers).tolist())
    if len(found) > MOST_OBJECTS:
        raise DataError(f"'{file}' holds {len(found)} different numbers", fix=_REMEDY)
    binary = found == {0, VOID} or found == {VOID}
    if year == "auto":
        year = "2016" if binary else "2017"
    table = np.arange(256, dtype=np.uint8)
    if year == "2016":
        table = (table > 0).astype(np.uint8)
        palette = None if binary else palette
    if not binary or year == "2017":
        table[VOID] = 0
    first = table[numbers]
    objects = tuple(number for number in np.unique(first).tolist() if number)
    if not objects:
        raise DataError(
            f"the first mask of '{video.name}' holds no object: '{file}'",
            why=f"all of its pixels are {' or '.join(map(str, sorted(found)))}",
            fix="year=2016 takes 255 for an object"
            if binary
            else "give the mask of another frame and leave out the frames before it",
        )
    return VideoObjects(first, objects, table, palette, year)


def check_sizes(frames: VideoFrames, video: Video) -> None:
    """Raise DataError for a frame or a mask that is not of the first frame's size."""
    first = frames.frame_size(video.numbers[0])
    for number, mask in zip(video.numbers, video.masks, strict=True):
        if (size := frames.frame_size(number)) != first:
            raise DataError(
                f"the frames of '{video.name}' have different sizes",
                why=f"{frames.name(number)} is {_said(size)} pixels, "
                f"{frames.name(video.numbers[0])} {_said(first)}",
                fix="resize them, or put each size into a folder of its own",
            )
        if mask and (size := _size_of_mask(mask)) != first:
            raise DataError(
                f"'{mask}' is {_said(size)} pixels, its frame {_said(first)}",
                fix="resize the mask without smoothing (nearest)",
            )


def read_numbers(file: str | Path) -> tuple[NDArray[np.uint8], tuple[int, ...] | None]:
    """Pixels of a mask [H, W] as they are stored, and its palette if it has one.

    Raises DataError for what is no image of one band with numbers up to 255.
    """
    try:
        with Path(file).open("rb") as opened, quiet():
            image = open_image(opened)
            image.load()
    except (OSError, SyntaxError, ValueError, UnreadableImage) as error:
        raise DataError(f"the mask '{file}' cannot be read", why=str(error)) from None
    if image.mode not in _INDEX_MODES:
        colours = image.convert("RGB").getcolors(MOST_OBJECTS)
        count = f"more than {MOST_OBJECTS}" if colours is None else len(colours)
        raise DataError(
            f"the mask '{file}' has colours instead of numbers",
            why=f"its pixels are {image.mode}, {count} colours",
            fix=_REMEDY,
        )
    values = np.asarray(image).astype(np.int64)
    if values.max() > VOID:
        raise DataError(f"the mask '{file}' holds the number {values.max()}", fix=_REMEDY)
    palette = image.getpalette() if image.mode == "P" else None
    return values.astype(np.uint8), tuple(palette) if palette else None


def write_numbers(
    file: Path, mask: NDArray[np.uint8], palette: Sequence[int] | None = None
) -> None:
    """Write a mask [H, W] as a PNG with a palette, that of DAVIS unless one is given."""
    image = Image.fromarray(mask)
    image.putpalette(list(palette or davis_palette()))
    image.save(file, format="PNG")


def davis_palette() -> list[int]:
    """Red, green, blue of 256 numbers: bits 0, 1, 2 of each become the highest bit of red, green
    and blue, the next three the next highest, ... (spec_evaluation 8.12).
    """
    colours = []
    for number in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            for band in range(3):
                colour[band] |= (number >> (3 * bit + band) & 1) << (7 - bit)
        colours += colour
    return colours


def _size_of_mask(file: str) -> tuple[int, int]:
    try:
        return image_size(file, "ignore", MAX_PIXELS)
    except UnreadableImage as error:
        raise DataError(f"the mask '{file}' cannot be read", why=str(error)) from None


def _said(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
