"""Where the windows of images lie: side by side over each, or where chance has it in an epoch.

A window is called `slide.svs#x=1024,y=2048,w=512,h=512`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import Windows
from ibot.data.decode import UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.content import content
from ibot.data.sets.images import Images
from ibot.data.tiled import Box
from ibot.errors import DataError
from ibot.rng import Purpose, uniform

ATTEMPTS = 24
"""Places that are drawn for a window before the one with the most content is taken."""
_NAME = re.compile(r"(.*)#x=(\d+),y=(\d+),w=(\d+),h=(\d+)", re.DOTALL)


class Place(NamedTuple):
    """Where a window lies."""

    picture: int
    """Number of the image."""
    box: Box
    """Top, left, height, width in its pixels."""


def window_name(name: str, box: Box) -> str:
    """What a window of the image of that name is called."""
    top, left, height, width = box
    return f"{name}#x={left},y={top},w={width},h={height}"


def parse_window(name: str) -> tuple[str, Box] | None:
    """The image and the box that a window's name tells; None for other names."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    left, top, width, height = map(int, found.groups()[1:])
    return found[1], (top, left, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class GridPlaces:
    """Places that are known: those of a grid."""

    picture: NDArray[np.int64]
    """int64 [n]."""
    boxes: NDArray[np.int64]
    """int64 [n, 4]: top, left, height, width."""

    @classmethod
    def one_each(cls, boxes: Sequence[Box]) -> GridPlaces:
        """One window of each of so many images."""
        return cls(np.arange(len(boxes)), np.array(boxes, np.int64).reshape(-1, 4))

    def __len__(self) -> int:
        return len(self.picture)

    def place(self, base: Images, number: int) -> Place:
        """That of a window."""
        del base
        top, left, height, width = self.boxes[number].tolist()
        return Place(int(self.picture[number]), (top, left, height, width))

    def fingerprint(self) -> str:
        """SHA-256 in hex of all places."""
        return fingerprints.digest("grid", self.picture, self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class RandomPlaces:
    """Places drawn anew in each epoch, each image in proportion to its pixels."""

    windows: Windows
    sizes: NDArray[np.int64]
    """int64 [n, 2], height and width of the images; 0, 0 of those that cannot be read."""
    count: int
    epoch: int = 0
    seed: int = 0
    ends: NDArray[np.float64] = field(init=False, repr=False)
    """float64 [n], pixels of all images up to the end of each."""

    def __post_init__(self) -> None:
        ends = np.cumsum(np.prod(self.sizes, axis=1, dtype=np.float64))
        object.__setattr__(self, "ends", ends)

    def __len__(self) -> int:
        return self.count

    def place(self, base: Images, number: int) -> Place:
        """The first drawn place with enough content; of `ATTEMPTS` without, that with the most.

        A redrawn window may lie in another image, so images get windows in proportion to their
        content.
        """
        best, most = self._drawn(number, 0), -1.0
        if not self.windows.content:
            return best
        for attempt in range(ATTEMPTS):
            place = self._drawn(number, attempt)
            share = _share(base, place.picture, place.box)
            if share >= self.windows.content:
                return place
            if share > most:
                best, most = place, share
        return best

    def _drawn(self, number: int, attempt: int) -> Place:
        drawn = uniform(self.seed, self.epoch, number, attempt, Purpose.WINDOW, 3)
        picture = int(np.searchsorted(self.ends, drawn[0] * self.ends[-1], side="right"))
        height, width = self.sizes[picture].tolist()
        h, w = min(self.windows.side, height), min(self.windows.side, width)
        top, left = int(drawn[1] * (height - h + 1)), int(drawn[2] * (width - w + 1))
        return Place(picture, (top, left, h, w))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the settings, sizes and epoch."""
        about = f"{self.windows} {self.count} {self.epoch} {self.seed}"
        return fingerprints.digest("random", about, self.sizes)


def grid_places(images: Images, sizes: NDArray[np.int64], windows: Windows) -> GridPlaces:
    """Windows side by side from the top left corner of each image, in rows; what is left at its
    right and lower border is a window where it is half of one at least.

    sizes: int64 [n, 2], height and width of the images; those of 0, 0 have none.
    Raises DataError where none has enough content.
    """
    picture: list[int] = []
    boxes: list[Box] = []
    for number, (height, width) in enumerate(sizes.tolist()):
        for top, h in _cut(height, windows.side):
            for left, w in _cut(width, windows.side):
                box = top, left, h, w
                if windows.content and _share(images, number, box) < windows.content:
                    continue
                picture.append(number)
                boxes.append(box)
    if not picture:
        raise DataError(
            f"no window in '{images.root}' has enough content",
            why=f"a share of {windows.content:g} is wanted of each",
            fix="set data.window_content lower",
        )
    return GridPlaces(np.array(picture, np.int64), np.array(boxes, np.int64).reshape(-1, 4))


def _cut(length: int, side: int) -> Sequence[tuple[int, int]]:
    """(start, length) of the windows along one side of an image."""
    if 0 < length <= side:
        return [(0, length)]
    pieces = ((start, min(side, length - start)) for start in range(0, length, side))
    return [piece for piece in pieces if 2 * piece[1] >= side]


def _share(images: Images, picture: int, box: Box) -> float:
    try:
        return content(images, picture, box)
    except UnreadableImage:
        return 1.0  # whoever reads the window lists it
