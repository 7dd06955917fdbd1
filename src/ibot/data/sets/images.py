"""Images by number, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Images(Protocol):
    """Images in a fixed order. Can be pickled."""

    @property
    def root(self) -> Path:
        """Folder that the names are relative to."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called, relative to the root."""
        ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex of all that the features of the images depend on."""
        ...
