"""THE protocol of images by number: what all that reads images asks of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Images(Protocol):
    """Images in a fixed order, from files, archives, memory or anything else.

    None holds open files: a set can be pickled, forked and read from several threads. It is taken
    to stay as it is. A read of a region at a scale, for pictures larger than memory, is to stand
    here beside `read`, and in each kind of set that can do it cheaply.
    """

    @property
    def root(self) -> Path:
        """What a user calls the set: the folder its names are relative to, or the file it is."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of what was and was not taken, a sentence each."""
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

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
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
