"""Parts of images, cut out by a box each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.images import Images


class BoxedImages:
    """What boxes cut out of the images of a set.

    Corners are rounded to pixels; what of a box lies outside of its image is left out.
    """

    def __init__(self, base: Images, boxes: NDArray[np.float64]) -> None:
        """`boxes` float64 [n, 4]: left, top, right, bottom in pixels, one for each image."""
        self.base = base
        self.root, self.notes, self.channels = base.root, base.notes, base.channels
        self.boxes = np.rint(boxes).astype(np.int64)

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of the part. Raises UnreadableImage."""
        left, top, right, bottom = self._inside(index, self.base.size(index))
        return bottom - top, right - left

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of the part, uint8 [h, w, 3]. Raises UnreadableImage, also where it has none."""
        image = self.base.read(index)
        left, top, right, bottom = self._inside(index, image.shape[:2])
        return image[top:bottom, left:right]

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint and the boxes."""
        return fingerprints.digest("boxed", self.base.fingerprint(), self.boxes)

    def provenance(self) -> dict[str, object]:
        """That of the base; the hash is of its hash and the boxes."""
        base = self.base.provenance()
        names = fingerprints.digest(str(base["names_sha256"]), self.boxes)[:16]
        return {**base, "names_sha256": names}

    def _inside(self, index: int, size: tuple[int, ...]) -> tuple[int, int, int, int]:
        limits = np.array([size[1], size[0], size[1], size[0]])
        left, top, right, bottom = np.clip(self.boxes[index], 0, limits).tolist()
        if left >= right or top >= bottom:
            box = ",".join(map(str, self.boxes[index].tolist()))
            raise UnreadableImage(f"its box {box} cuts nothing out of {size[1]} x {size[0]} pixels")
        return left, top, right, bottom
