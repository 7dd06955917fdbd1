"""Images without their borders of one colour."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from ibot.data.borders import without_border
from ibot.data.sets import fingerprints
from ibot.data.sets.images import Images, LabelledImages, Pixels
from ibot.data.sets.subsets import SubsetImages
from ibot.data.sets.windows import in_windows

RULE = "borders 1"
"""Changed when other borders are found than before."""


class TrimmedImages:
    """The images of a set without their borders (`data.borders`)."""

    def __init__(self, base: Images) -> None:
        """`base` reads whole images."""
        self.base = base
        self.root, self.notes, self.channels = base.root, base.notes, base.channels

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives, which must be read for it.

        Raises UnreadableImage.
        """
        height, width = self.read(index).shape[:2]
        return height, width

    def read(self, index: int) -> Pixels:
        """Pixels of an image [H, W, C] inside of its border. Raises UnreadableImage."""
        return np.ascontiguousarray(without_border(self.base.read(index)))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's and the rule: they are other images."""
        return fingerprints.digest(RULE, self.base.fingerprint())

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data; the names are those of the base."""
        return self.base.provenance()


class LabelledTrimmed(TrimmedImages):
    """The same with a class each."""

    base: LabelledImages

    def __init__(self, base: LabelledImages) -> None:
        """As `TrimmedImages`."""
        super().__init__(base)
        self.classes = base.classes
        self.labels: NDArray[np.int32] = base.labels

    def label(self, index: int) -> int:
        """Class of an image."""
        return self.base.label(index)


def is_trimmed(images: Images) -> bool:
    """Whether borders are cut off from the images, or from those that a subset is of."""
    while isinstance(images, SubsetImages):
        images = images.base
    return isinstance(images, TrimmedImages)


@overload
def trimmed(images: LabelledImages, wanted: bool = ...) -> LabelledImages: ...
@overload
def trimmed(images: Images, wanted: bool = ...) -> Images: ...
def trimmed(images: Images, wanted: bool = True) -> Images:
    """The images without their borders, if that is `wanted`, labelled as they were; those that are
    trimmed already stay as they are, and so do windows, which have no borders.
    """
    if not wanted or is_trimmed(images) or in_windows(images):
        return images
    return LabelledTrimmed(images) if isinstance(images, LabelledImages) else TrimmedImages(images)
