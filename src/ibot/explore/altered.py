"""Altered copies of some images of a set, to see which of them features and small pictures find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibot.data.annotated.attacks import attacked
from ibot.data.sets import fingerprints
from ibot.data.sets.images import Images

KINDS = {
    "jpeg30": "JPEG of quality 30",
    "blur": "blurred",
    "colour": "brightness, contrast and saturation x 0.5 to 1.5",
    "gray": "without colour",
    "mirror": "mirrored",
    "crop20": "a fifth of the area cut off",
    "overlay": "a bar and a disc laid over it",
}
"""What is done to them (`data.annotated.attacks`), and what it is called."""


class AlteredImages:
    """Each image of a set in each kind of copy: all of the first kind come first."""

    def __init__(self, base: Images) -> None:
        """`base` gives colour pictures."""
        self.base = base
        self.root, self.notes, self.channels = base.root, base.notes, base.channels

    def __len__(self) -> int:
        return len(KINDS) * len(self.base)

    def _which(self, index: int) -> tuple[str, int]:
        kind, image = divmod(index, len(self.base))
        return list(KINDS)[kind], image

    def name(self, index: int) -> str:
        """Kind, and name in the base."""
        kind, image = self._which(index)
        return f"{kind}/{self.base.name(image)}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives. Raises UnreadableImage."""
        height, width, _ = self.read(index).shape
        return height, width

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels, uint8 [h, w, 3]. Raises UnreadableImage."""
        kind, image = self._which(index)
        return attacked(self.base.read(image), kind, 0, image)

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint and the kinds."""
        return fingerprints.digest("altered", self.base.fingerprint(), *KINDS)

    def provenance(self) -> dict[str, object]:
        """That of the base; the hash is of its hash and the kinds."""
        base = self.base.provenance()
        hashed = fingerprints.digest(str(base["names_sha256"]), *KINDS)[:16]
        return {**base, "images": len(self), "names_sha256": hashed}
