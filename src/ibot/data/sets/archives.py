"""Where the files of images lie inside of larger ones: tar archives, Arrow files, tables."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets.fingerprints import file_state

NO_IMAGE = "no image in this row"
"""Why an empty cell of a table gives no pixels."""


class Container(Protocol):
    """What holds the files of a set, as they would lie in a folder; pickled without open files."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the larger files, relative to the root of the set."""
        ...

    def open(self, root: Path, index: int) -> io.BytesIO:
        """The file of an image. Raises UnreadableImage."""
        ...

    def state(self, root: Path) -> NDArray[np.int64]:
        """What changes when the files do, for a fingerprint."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Archives:
    """The places of the images of a set in files that hold them as they are, byte by byte."""

    names: tuple[str, ...]
    """Of the archives, relative to the root of the set."""
    places: NDArray[np.int64]
    """int64 [n, 3]: number of the archive, first byte and bytes of each image; -1 bytes where
    there is none."""

    def open(self, root: Path, index: int) -> io.BytesIO:
        """The file of an image. Raises UnreadableImage."""
        archive, start, size = self.places[index].tolist()
        if size < 0:
            raise UnreadableImage(NO_IMAGE)
        try:
            # Opened anew each time: a handle kept over a fork would share its position with the
            # other workers.
            with (root / self.names[archive]).open("rb") as file:
                file.seek(start)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
        if len(content) < size:
            raise UnreadableImage("truncated")
        return io.BytesIO(content)

    def state(self, root: Path) -> NDArray[np.int64]:
        """Sizes and times of the archives and places of the images in them, for a fingerprint."""
        return np.vstack([file_state(str(root / name) for name in self.names), self.places[:, 1:]])
