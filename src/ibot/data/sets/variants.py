"""The same images read otherwise or with other classes, and the files that two sets share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ibot.data.channels.images import ChannelImages
from ibot.data.decode import Orientation
from ibot.data.sets import fingerprints
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.classes import match_classes
from ibot.data.sets.files import Decoder, FileImages, LabelledFiles
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.subsets import LabelledSubset, SubsetImages
from ibot.data.sets.trimmed import TrimmedImages
from ibot.data.sets.windows import WindowImages

AnyImages = TypeVar("AnyImages", bound=Images)
Labelled = TypeVar("Labelled", bound=LabelledImages)


def read_as(
    images: AnyImages,
    exif_orientation: Orientation,
    max_pixels: int,
    decoder: Decoder = "pillow",
) -> AnyImages:
    """The same images, turned upright by their EXIF tags or not, refused above `max_pixels`, and
    read by another decoder.

    Those in memory stay as they are, and so do sets of other kinds than those of this package.
    """
    if isinstance(images, SubsetImages):
        base = read_as(images.base, exif_orientation, max_pixels, decoder)
        return type(images)(base, images.indices)
    if isinstance(images, WindowImages):
        return replace(images, base=read_as(images.base, exif_orientation, max_pixels, decoder))
    if isinstance(images, TrimmedImages):
        return type(images)(read_as(images.base, exif_orientation, max_pixels, decoder))
    if isinstance(images, FileImages):
        return replace(
            images, exif_orientation=exif_orientation, max_pixels=max_pixels, decoder=decoder
        )
    return images


def in_levels(images: Images) -> Images | None:
    """Below other images those, whole or in windows, whose channels are measured as they are
    stored; None for colour pictures.
    """
    while isinstance(images, SubsetImages | TrimmedImages):
        images = images.base
    if isinstance(images, WindowImages):
        return images if in_levels(images.base) else None
    return images if isinstance(images, ChannelImages) else None


def matched(
    images: LabelledImages, classes: tuple[str, ...], where: tuple[str, str]
) -> LabelledImages:
    """The same images with the classes of the training images; see `match_classes`."""
    if images.classes == classes:
        return images
    return relabelled(images, match_classes(classes, images.classes, where), classes)


class OtherClasses(LabelledSubset):
    """All images of a set of any kind, with other classes."""

    def __init__(
        self, base: LabelledImages, labels: NDArray[np.int32], classes: tuple[str, ...]
    ) -> None:
        """`labels` int32 [n] into `classes`."""
        super().__init__(base, np.arange(len(base)))
        self.labels, self.classes = labels, classes

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint, the classes and the labels."""
        return fingerprints.digest("classes", super().fingerprint(), *self.classes, self.labels)


def relabelled(
    images: LabelledImages, number: NDArray[np.int32], classes: tuple[str, ...]
) -> LabelledImages:
    """The same images with other classes: class i becomes number[i] of `classes`."""
    if type(images) is LabelledSubset:
        return LabelledSubset(relabelled(images.base, number, classes), images.indices)
    labels = number[images.labels]
    if isinstance(images, LabelledFiles | ArrayImages):
        return replace(images, labels=labels, classes=classes)
    return OtherClasses(images, labels, classes)


def count_shared(train: Images, val: Images) -> int:
    """How many images of `val` are in `train` too, as far as that is told cheaply.

    Of files those with the same path; of images in memory and in archives all or none.
    """
    if train.fingerprint() == val.fingerprint():
        return len(val)
    if not (_are_files(train) and _are_files(val)):
        return 0
    roots = train.root.resolve(), val.root.resolve()
    if not (roots[0].is_relative_to(roots[1]) or roots[1].is_relative_to(roots[0])):
        return 0
    return len(set(_paths(val, roots[1])).intersection(_paths(train, roots[0])))


def _are_files(images: Images) -> bool:
    if isinstance(images, SubsetImages | TrimmedImages | WindowImages):
        return _are_files(images.base)
    return isinstance(images, FileImages) and images.archives is None


def _paths(images: Images, root: Path) -> Iterator[str]:
    start = str(root)
    return (os.path.join(start, images.name(i)) for i in range(len(images)))  # noqa: PTH118 - speed
