"""Windows of images, which stand for images larger than memory.

By the grid (`GridPlaces`) they lie side by side over each image, for all that looks at images one
after the other; at random (`RandomPlaces`) each epoch has others, drawn by (seed, epoch, number),
for training. A window is called `slide.svs#x=1024,y=2048,w=512,h=512`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ibot.config.schema import Windows
from ibot.data.decode import UnreadableImage
from ibot.data.regions import read_level, read_region, resize
from ibot.data.sets import fingerprints
from ibot.data.sets.content import content
from ibot.data.sets.images import Images, LabelledImages, Pixels
from ibot.data.sets.region_files import picture_of, sizes_of, whole
from ibot.data.tiled import Box
from ibot.errors import DataError
from ibot.rng import Purpose, uniform
from ibot.words import counted

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


class Places(Protocol):
    """Where the windows of a set lie."""

    def __len__(self) -> int: ...

    def place(self, base: Images, number: int) -> Place:
        """That of a window of the images `base`."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex of what they follow from, beside the images."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GridPlaces:
    """Places that are known: those of a grid."""

    picture: NDArray[np.int64]
    """int64 [n]."""
    boxes: NDArray[np.int64]
    """int64 [n, 4]: top, left, height, width."""

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

    def __len__(self) -> int:
        return self.count

    def place(self, base: Images, number: int) -> Place:
        """The first drawn place with enough content; of `ATTEMPTS` without, that with the most.

        A redrawn window may lie in another image, so images get windows in proportion to their
        content. Raises UnreadableImage.
        """
        best, most = self._drawn(number, 0), -1.0
        if not self.windows.content:
            return best
        for attempt in range(ATTEMPTS):
            place = self._drawn(number, attempt)
            share = content(base, place.picture, place.box)
            if share >= self.windows.content:
                return place
            if share > most:
                best, most = place, share
        return best

    def _drawn(self, number: int, attempt: int) -> Place:
        drawn = uniform(self.seed, self.epoch, number, attempt, Purpose.WINDOW, 3)
        ends = np.cumsum(np.prod(self.sizes, axis=1, dtype=np.float64))
        picture = int(np.searchsorted(ends, drawn[0] * ends[-1], side="right"))
        height, width = self.sizes[picture].tolist()
        h, w = min(self.windows.side, height), min(self.windows.side, width)
        top, left = int(drawn[1] * (height - h + 1)), int(drawn[2] * (width - w + 1))
        return Place(picture, (top, left, h, w))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the settings, sizes and epoch."""
        about = f"{self.windows} {self.count} {self.epoch} {self.seed}"
        return fingerprints.digest("random", about, self.sizes)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WindowImages:
    """Windows of images."""

    base: Images
    places: GridPlaces | RandomPlaces
    further_notes: tuple[str, ...] = ()
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""

    @property
    def root(self) -> Path:
        """That of the images."""
        return self.base.root

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the images, and how many windows they have."""
        return (*self.base.notes, *self.further_notes)

    @property
    def channels(self) -> tuple[str, ...]:
        """Those of the images."""
        return self.base.channels

    def __len__(self) -> int:
        return len(self.places)

    def place(self, index: int) -> Place:
        """Where a window lies. Raises UnreadableImage where that depends on pixels."""
        return self.places.place(self.base, index)

    def name(self, index: int) -> str:
        """Name of the image with the place of the window."""
        try:
            picture, box = self.place(index)
        except UnreadableImage:
            return f"window {index}"
        return window_name(self.base.name(picture), box)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels. Raises UnreadableImage."""
        return self.place(index).box[2:]

    def read(self, index: int) -> Pixels:
        """Pixels of a window [H, W, C]. Raises UnreadableImage."""
        picture, box = self.place(index)
        return _region(self.base, picture, box, box[2:])

    def read_region(self, index: int, box: Box, size: tuple[int, int]) -> Pixels:
        """Pixels of a part of a window [h, w, C]; see `RegionImages`. Raises UnreadableImage."""
        picture, window = self.place(index)
        return _region(self.base, picture, _within(box, window), size)

    def read_level(
        self, index: int, box: Box, most: float
    ) -> tuple[Pixels, tuple[float, float, float, float]]:
        """Pixels that cover a part of a window, and where they lie; see `RegionImages`."""
        picture, window = self.place(index)
        part = _within(box, window)
        tiled = picture_of(self.base, picture)
        if tiled is None:
            pixels = _region(self.base, picture, part, part[2:])
            place = tuple(map(float, part))
        else:
            pixels, place = read_level(tiled, part, most)
        return pixels, (place[0] - window[0], place[1] - window[1], place[2], place[3])

    def for_epoch(self, epoch: int, seed: int) -> WindowImages:
        """Random windows of an epoch; those of a grid are the same in all."""
        if isinstance(self.places, GridPlaces):
            return self
        return replace(self, places=replace(self.places, epoch=epoch, seed=seed))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the images' fingerprint and the places."""
        if not self._known:
            parts = "windows", self.base.fingerprint(), self.places.fingerprint()
            self._known.append(fingerprints.digest(*parts))
        return self._known[0]

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data; the hash is of the images' and the places."""
        base = self.base.provenance()
        names = fingerprints.digest(str(base["names_sha256"]), self.places.fingerprint())[:16]
        return {**base, "images": len(self), "names_sha256": names}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelledWindows(WindowImages):
    """Windows of labelled images, each with the class of its image."""

    labels: NDArray[np.int32]
    """int32 [n], index into `classes`."""
    classes: tuple[str, ...]

    def label(self, index: int) -> int:
        """Class of a window."""
        return int(self.labels[index])


def windowed(images: Images, windows: Windows) -> Images:
    """Images seen in windows; the same images for a side of 0.

    Those by the grid keep their labels; random ones have none, for they are others in each epoch.
    An image smaller than a window is one. Raises DataError where no image can be read, or none has
    a window with enough content.
    """
    if not windows.side:
        return images
    if windows.at == "grid":
        return (
            _with_labels(images, windows)
            if isinstance(images, LabelledImages)
            else _seen(images, windows)
        )
    sizes, notes = _sizes(images)
    covering = np.ceil(np.prod(sizes, axis=1) / windows.side**2).astype(np.int64)
    places = RandomPlaces(windows, sizes, windows.count or int(covering.sum()))
    said = f"an epoch is {counted(len(places), 'random window')} of {windows.side} pixels"
    return WindowImages(base=images, places=places, further_notes=(said, *notes))


def labelled_windows(
    sets: tuple[LabelledImages, LabelledImages], windows: Windows
) -> tuple[LabelledImages, LabelledImages]:
    """Two labelled sets seen in windows by the grid; the same sets for a side of 0."""
    if not windows.side:
        return sets
    return _with_labels(sets[0], windows), _with_labels(sets[1], windows)


def _with_labels(images: LabelledImages, windows: Windows) -> LabelledWindows:
    seen = _seen(images, windows)
    kept = {f.name: getattr(seen, f.name) for f in fields(WindowImages) if f.init}
    assert isinstance(seen.places, GridPlaces)
    labels = images.labels[seen.places.picture].astype(np.int32)
    return LabelledWindows(**kept, labels=labels, classes=images.classes)


def _seen(images: Images, windows: Windows) -> WindowImages:
    """Windows by the grid."""
    sizes, notes = _sizes(images)
    places = _grid(images, sizes, windows)
    said = f"seen in {counted(len(places), 'window')} of {windows.side} pixels, side by side"
    return WindowImages(base=images, places=places, further_notes=(said, *notes))


def _sizes(images: Images) -> tuple[NDArray[np.int64], list[str]]:
    """Heights and widths, int64 [n, 2], and what to say of images without. Raises DataError."""
    sizes, bad = sizes_of(images)
    if not sizes.any():
        raise DataError(
            f"none of {len(images)} images in '{images.root}' can be read",
            why=bad[0],
            fix="look at the files, or name another folder",
        )
    said = f"{counted(len(bad), 'image')} cannot be read, the first: {bad[0] if bad else ''}"
    return sizes, [said] if bad else []


def _grid(images: Images, sizes: NDArray[np.int64], windows: Windows) -> GridPlaces:
    """Windows side by side from the top left corner of each image, in rows; what is left at its
    right and lower border is a window where it is half of one at least.
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


def _within(box: Box, window: Box) -> Box:
    """A box of a window in pixels of the image."""
    return window[0] + box[0], window[1] + box[1], box[2], box[3]


def _region(images: Images, picture: int, box: Box, size: tuple[int, int]) -> Pixels:
    tiled = picture_of(images, picture)
    if tiled is not None:
        return read_region(tiled, box, size)
    top, left, height, width = box
    pixels = whole(images, picture)[top : top + height, left : left + width]
    return pixels if size == (height, width) else resize(pixels, size, (0, 0, width, height))
