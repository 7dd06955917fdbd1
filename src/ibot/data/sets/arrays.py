"""Images in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import RGB
from ibot.data.sets import fingerprints
from ibot.data.sets.images import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImages:
    """Images in memory with a class each, named by part and number."""

    root: Path
    part: str
    pixels: Pixels
    """uint8 [n, H, W, 3] of colour pictures, or float32 [n, H, W, C], levels of other channels."""
    labels: NDArray[np.int32]
    """int32 [n]."""
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = RGB
    """Their names."""
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """Part and number, as in `test/00042`."""
        return f"{self.part}/{index:05d}"

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def read(self, index: int) -> Pixels:
        """A copy of the pixels of an image [H, W, C]."""
        return self.pixels[index].copy()

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, part, labels and pixels."""
        if not self._known:
            others = () if self.channels == RGB else self.channels
            about = "array", *others, *self.classes, self.part, self.labels, self.pixels
            self._known.append(fingerprints.digest(*about))
        return self._known[0]

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data. Numbers name images of any set: the pixels are hashed."""
        return {
            "root": str(self.root),
            "images": len(self),
            "classes": len(self.classes),
            "names_sha256": fingerprints.digest(self.part, self.pixels)[:16],
        }
