"""THE protocol of images by number: what all that reads images asks of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
"""uint8 or float32: bytes of the red, green and blue of a colour picture, or levels of any
channels: values of whole types as a share of their range, 0..1, floats as they are; all finite."""

Room = Callable[[int, int], NDArray[np.uint8] | None]
"""Given height and width, memory [H, W, 3] in one piece for the pixels of a picture; None: none."""


@runtime_checkable
class Images(Protocol):
    """Images in a fixed order, from files, archives, memory or anything else.

    None holds open files: a set can be pickled, forked and read from several threads. It is taken
    to stay as it is.
    """

    @property
    def root(self) -> Path:
        """What a user calls the set: the folder its names are relative to, or the file it is."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of what was and was not taken, a sentence each."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of what `read` gives; red, green, blue of colour pictures."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called, relative to the root."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives, from the header where that tells.

        Raises UnreadableImage.
        """
        ...

    def read(self, index: int) -> Pixels:
        """Pixels of an image [H, W, C]. Raises UnreadableImage."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, names, and the state of the files or the pixels in memory; of
        labelled images their classes and labels too.

        As it was at the first call: changes are seen by sets made after them.
        """
        ...

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data: `root`, `images`, `classes` and `names_sha256`.

        By the last a resumed run knows its images again, also when the folder was moved.
        """
        ...


@runtime_checkable
class RegionImages(Images, Protocol):
    """Images of which parts can be read cheaply: pictures larger than memory."""

    def read_region(
        self, index: int, box: tuple[int, int, int, int], size: tuple[int, int]
    ) -> Pixels:
        """Pixels of a part of an image [h, w, C], from the coarsest stored level that has them.

        box: top, left, height, width in pixels of `size(index)`, inside of the image.
        size: (h, w) to which the part is resized, at most that of the box.
        Raises UnreadableImage.
        """
        ...

    def read_level(
        self, index: int, box: tuple[int, int, int, int], most: float
    ) -> tuple[Pixels, tuple[float, float, float, float]]:
        """Pixels that cover a part of an image [h, w, C], as the coarsest stored level has them of
        those reduced by `most` or less; and where they lie: top, left, height, width in pixels of
        `size(index)`, less than a pixel of that level outside of the box.

        Raises UnreadableImage.
        """
        ...


def read_into(images: Images, index: int, room: Room) -> Pixels:
    """As `images.read`; the pixels lie in `room` if the set can read them there without a copy."""
    read = getattr(images, "read_into", None)  # a protocol's check costs 30 us for each image
    return images.read(index) if read is None else read(index, room)


@runtime_checkable
class EpochImages(Images, Protocol):
    """Images that are others in each epoch, as windows that are drawn anew."""

    def for_epoch(self, epoch: int, seed: int) -> Images:
        """Those of an epoch, as many as there are in each."""
        ...


def of_epoch(images: Images, epoch: int, seed: int) -> Images:
    """The images of an epoch; most sets are the same in all."""
    return images.for_epoch(epoch, seed) if isinstance(images, EpochImages) else images


@runtime_checkable
class KeyedImages(Images, Protocol):
    """Images that are known one by one, also in a set that has others beside them."""

    def keys(self) -> NDArray[np.uint64] | None:
        """uint64 [n, 2]: images of equal keys have the same pixels, in whatever set; zeros where
        nothing is known of an image. None where that holds for all.
        """
        ...


def keys_of(images: Images) -> NDArray[np.uint64] | None:
    """The keys of images that have any."""
    return images.keys() if isinstance(images, KeyedImages) else None


@runtime_checkable
class LabelledImages(Images, Protocol):
    """Images with a class each."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [n]."""
        ...

    def label(self, index: int) -> int:
        """Class of an image."""
        ...
