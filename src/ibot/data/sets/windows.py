"""Windows of images, which stand for images larger than memory.

By the grid they lie side by side over each image, for all that looks at images one after the other;
at random each epoch has others, drawn by (seed, epoch, number), for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import MAX_PIXELS, Windows
from ibot.data.channels.images import mostly_measured
from ibot.data.channels.levels import filled
from ibot.data.channels.statistics import Statistics, measured
from ibot.data.decode import UnreadableImage
from ibot.data.regions import Read, read_level, read_region, resize
from ibot.data.sets import fingerprints
from ibot.data.sets.images import Images, LabelledImages, Pixels
from ibot.data.sets.region_files import Tiles, channels_of, sizes_of, tiles_of, whole
from ibot.data.sets.subsets import SubsetImages
from ibot.data.sets.window_places import (
    GridPlaces,
    Place,
    RandomPlaces,
    grid_places,
    window_name,
)
from ibot.data.tiled import Box
from ibot.errors import DataError
from ibot.words import counted

LARGE = 2**24
"""Pixels of an image that is better not read whole."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WindowImages:
    """Windows of images."""

    base: Images
    places: GridPlaces | RandomPlaces
    further_notes: tuple[str, ...] = ()
    _statistics: list[Statistics] = field(default_factory=list, repr=False)
    """Those of the channels, once they are computed; the same in all epochs."""
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""
    _last: dict[int, Place] = field(default_factory=dict, init=False, repr=False)
    """The place that was asked for last: whoever wants a window's size wants its pixels next."""

    @property
    def root(self) -> Path:
        """That of the images."""
        return self.base.root

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the images, how many windows they have, and how much of a sample of these is no
        number, once it is known.
        """
        invalid = (note for known in self._statistics for note in known.notes())
        return (*self.base.notes, *self.further_notes, *invalid)

    @property
    def channels(self) -> tuple[str, ...]:
        """Those of the images."""
        return self.base.channels

    def __len__(self) -> int:
        return len(self.places)

    def place(self, index: int) -> Place:
        """Where a window lies."""
        if (known := self._last.get(index)) is not None:
            return known
        place = self.places.place(self.base, index)
        self._last.clear()
        self._last[index] = place
        return place

    def name(self, index: int) -> str:
        """Name of the image with the place of the window."""
        picture, box = self.place(index)
        return window_name(self.base.name(picture), box)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.place(index).box[2:]

    def read(self, index: int) -> Pixels:
        """Pixels of a window [H, W, C]. Raises UnreadableImage."""
        picture, box = self.place(index)
        return self._region(picture, box, box[2:])

    def measured(self, index: int) -> Pixels:
        """As `read`; NaN where nothing was measured. Raises UnreadableImage."""
        picture, box = self.place(index)
        tiles = tiles_of(self.base, picture)
        if tiles is not None:
            return mostly_measured(read_region(tiles.picture, box, box[2:], tiles.read))
        return mostly_measured(_cut(whole(self.base, picture), box))

    def read_region(self, index: int, box: Box, size: tuple[int, int]) -> Pixels:
        """Pixels of a part of a window [h, w, C]; see `RegionImages`. Raises UnreadableImage."""
        picture, window = self.place(index)
        return self._region(picture, _within(box, window), size)

    def read_level(
        self, index: int, box: Box, most: float
    ) -> tuple[Pixels, tuple[float, float, float, float]]:
        """Pixels that cover a part of a window, and where they lie; see `RegionImages`."""
        picture, window = self.place(index)
        part = _within(box, window)
        if (tiles := tiles_of(self.base, picture)) is None:
            pixels, place = self._region(picture, part, part[2:]), part
        else:
            pixels, place = read_level(tiles.picture, part, most, self._reader(tiles))
        return pixels, (place[0] - window[0], place[1] - window[1], place[2], place[3])

    def statistics(self) -> Statistics:
        """Of the channels over a sample of windows. Raises DataError: none is readable."""
        if not self._statistics:
            self._statistics.append(measured(self))
        return self._statistics[0]

    def _region(self, picture: int, box: Box, size: tuple[int, int]) -> Pixels:
        if (tiles := tiles_of(self.base, picture)) is not None:
            return read_region(tiles.picture, box, size, self._reader(tiles))
        pixels = self._filled(_cut(whole(self.base, picture), box))
        return pixels if size == box[2:] else resize(pixels, size, (0, 0, box[3], box[2]))

    def _reader(self, tiles: Tiles) -> Read:
        return lambda picture, level, box: self._filled(tiles.read(picture, level, box))

    def _filled(self, pixels: Pixels) -> Pixels:
        """With the mean of its channel where nothing was measured.

        Raises UnreadableImage where that is most of it.
        """
        if pixels.dtype == np.uint8 or not np.isnan(mostly_measured(pixels)).any():
            return pixels
        chosen = channels_of(self.base)
        mean = chosen.asked.mean if chosen is not None else ()
        return filled(pixels, mean or self.statistics().mean)

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


def windows_at(images: Images, boxes: Sequence[Box]) -> WindowImages:
    """A window of each image: top, left, height and width in its pixels.

    Raises DataError for one that does not lie within its image.
    """
    for index, (top, left, height, width) in enumerate(boxes):
        with suppress(UnreadableImage):  # whoever reads it will say so
            h, w = images.size(index)
            if min(height, width) < 1 or top + height > h or left + width > w:
                raise DataError(
                    f"there is no window x={left},y={top},w={width},h={height} in "
                    f"'{images.name(index)}'",
                    why=f"it is {w} pixels wide and {h} high",
                    fix="name one that lies within, as features and search call them",
                )
    return WindowImages(base=images, places=GridPlaces.one_each(boxes))


def in_windows(images: Images) -> bool:
    """Whether images, or those that a subset is of, are windows."""
    while isinstance(images, SubsetImages):
        images = images.base
    return isinstance(images, WindowImages)


def seen_whole(windows: Windows) -> str:
    """What to say where windows are asked for, or were trained on, and none are made."""
    return f"images are seen whole, not in windows of {windows.side} pixels"


def windowed(images: Images, windows: Windows, max_pixels: int = MAX_PIXELS) -> Images:
    """Images seen in windows; the same images for a side of 0.

    Those by the grid keep their labels; random ones have none, for they are others in each epoch.
    An image smaller than a window is one. Images that have no tiles and more than `max_pixels` are
    passed over. Raises DataError where no image can be read, or none has a window with enough
    content.
    """
    if not windows.side:
        return images
    if windows.at == "grid":
        return (
            _with_labels(images, windows, max_pixels)
            if isinstance(images, LabelledImages)
            else _seen(images, windows, max_pixels)
        )
    sizes, notes = _sizes(images, max_pixels)
    covering = np.ceil(np.prod(sizes, axis=1) / windows.side**2).astype(np.int64)
    places = RandomPlaces(windows, sizes, windows.count or int(covering.sum()))
    said = f"an epoch is {counted(len(places), 'random window')} of {windows.side} pixels"
    return WindowImages(base=images, places=places, further_notes=(said, *notes))


def labelled_windows(
    sets: tuple[LabelledImages, LabelledImages], windows: Windows, max_pixels: int = MAX_PIXELS
) -> tuple[LabelledImages, LabelledImages]:
    """Two labelled sets seen in windows by the grid; the same sets for a side of 0."""
    if not windows.side:
        return sets
    how = windows, max_pixels
    return _with_labels(sets[0], *how), _with_labels(sets[1], *how)


def _with_labels(images: LabelledImages, windows: Windows, max_pixels: int) -> LabelledWindows:
    seen = _seen(images, windows, max_pixels)
    kept = {f.name: getattr(seen, f.name) for f in fields(WindowImages) if f.init}
    assert isinstance(seen.places, GridPlaces)
    labels = images.labels[seen.places.picture].astype(np.int32)
    return LabelledWindows(**kept, labels=labels, classes=images.classes)


def _seen(images: Images, windows: Windows, max_pixels: int) -> WindowImages:
    """Windows by the grid."""
    sizes, notes = _sizes(images, max_pixels)
    places = grid_places(images, sizes, windows)
    said = f"seen in {counted(len(places), 'window')} of {windows.side} pixels, side by side"
    return WindowImages(base=images, places=places, further_notes=(said, *notes))


def _sizes(images: Images, max_pixels: int) -> tuple[NDArray[np.int64], list[str]]:
    """Heights and widths, int64 [n, 2], and what to say of images without. Raises DataError."""
    sizes, tiled, bad = sizes_of(images, max_pixels)
    if not sizes.any():
        raise DataError(
            f"none of {len(images)} images in '{images.root}' can be read",
            why=bad[0],
            fix="look at the files, or name another folder",
        )
    notes = []
    if bad:
        notes.append(f"{counted(len(bad), 'image')} cannot be read, the first: {bad[0]}")
    if large := int((~tiled & (np.prod(sizes, axis=1) >= LARGE)).sum()):
        have = "has no tiles and is" if large == 1 else "have no tiles and are"
        notes.append(
            f"{counted(large, 'large image')} {have} read whole for each window: of a tiled TIFF "
            "only what is needed would be"
        )
    return sizes, notes


def _within(box: Box, window: Box) -> Box:
    """A box of a window in pixels of the image."""
    return window[0] + box[0], window[1] + box[1], box[2], box[3]


def _cut(pixels: Pixels, box: Box) -> Pixels:
    return pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
