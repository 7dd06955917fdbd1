"""The same images read otherwise or with other classes, and the files that two sets share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import Orientation
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.classes import match_classes
from ibot.data.sets.files import FileImages, LabelledFiles
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.subsets import LabelledSubset, SubsetImages

AnyImages = TypeVar("AnyImages", bound=Images)
Labelled = TypeVar("Labelled", bound=LabelledImages)


def read_as(images: AnyImages, exif_orientation: Orientation, max_pixels: int) -> AnyImages:
    """The same images, turned upright by their EXIF tags or not, and refused above `max_pixels`.

    Those in memory stay as they are, and so do sets of other kinds than those of this package.
    """
    if isinstance(images, SubsetImages):
        return type(images)(read_as(images.base, exif_orientation, max_pixels), images.indices)
    if isinstance(images, FileImages):
        return replace(images, exif_orientation=exif_orientation, max_pixels=max_pixels)
    return images


def matched(images: Labelled, classes: tuple[str, ...], where: tuple[str, str]) -> Labelled:
    """The same images with the classes of the training images; see `match_classes`."""
    if images.classes == classes:
        return images
    return relabelled(images, match_classes(classes, images.classes, where), classes)


def relabelled(images: Labelled, number: NDArray[np.int32], classes: tuple[str, ...]) -> Labelled:
    """The same images with other classes: class i becomes number[i] of `classes`."""
    if isinstance(images, LabelledSubset):
        return type(images)(relabelled(images.base, number, classes), images.indices)
    assert isinstance(images, LabelledFiles | ArrayImages)
    return replace(images, labels=number[images.labels], classes=classes)


def count_shared(train: Images, val: Images) -> int:
    """How many files of `val` are in `train` too; 0 for images in memory and in archives."""
    if not (_are_files(train) and _are_files(val)):
        return 0
    roots = train.root.resolve(), val.root.resolve()
    if not (roots[0].is_relative_to(roots[1]) or roots[1].is_relative_to(roots[0])):
        return 0
    return len(set(_paths(val, roots[1])).intersection(_paths(train, roots[0])))


def _are_files(images: Images) -> bool:
    if isinstance(images, SubsetImages):
        return _are_files(images.base)
    return isinstance(images, FileImages) and images.archives is None


def _paths(images: Images, root: Path) -> Iterator[str]:
    start = str(root)
    return (os.path.join(start, images.name(i)) for i in range(len(images)))  # noqa: PTH118 - speed
