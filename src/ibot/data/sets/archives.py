"""Where images lie inside of tar archives."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets.fingerprints import file_state


@dataclass(frozen=True, slots=True, eq=False)
class Archives:
    """The places of the images of a set."""

    names: tuple[str, ...]
    """Of the archives, relative to the root of the set."""
    places: NDArray[np.int64]
    """int64 [n, 3]: number of the archive, first byte and bytes of each image."""

    def open(self, root: Path, index: int) -> io.BytesIO:
        """The file of an image. Raises UnreadableImage."""
        archive, start, size = self.places[index].tolist()
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
