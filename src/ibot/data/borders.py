"""Borders of one colour around a picture, as scanners, X-ray films and slides leave them.

A row or column at the edge belongs to the border while none of its levels is further from the
colour of its corner than `TOLERANCE`. Rows go first, then columns of what is left, then rows again,
as borders of two colours meet in a corner. A picture of which less than half a side would be left
stays as it is: that is background, or a picture of one colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.images import Pixels

TOLERANCE = 12 / 255
"""Of the range: of bytes, or of the levels of the picture's channel."""
TOGETHER = 64
"""Lines that are compared at a time, as floats: large pictures have many."""
LEFT = 0.5
"""Share of either side that must be left."""


def without_border(image: Pixels) -> Pixels:
    """The picture [H, W, C] inside of its border [h, w, C], a view of the same memory."""
    tolerance = _tolerance(image)
    rows = _inside(image, tolerance)
    inner = _inside(rows.swapaxes(0, 1), tolerance).swapaxes(0, 1)
    if inner.shape[1] < rows.shape[1]:
        inner = _inside(inner, tolerance)
    kept = min(inner.shape[0] / image.shape[0], inner.shape[1] / image.shape[1])
    return inner if kept >= LEFT else image


def _inside(lines: Pixels, tolerance: NDArray[np.float32] | float) -> Pixels:
    """Lines [n, m, C] without those of the border at both ends; none where all are."""
    if not lines.size:
        return lines
    first = _in_border(lines, tolerance)
    last = len(lines) - _in_border(lines[::-1], tolerance)
    return lines[first:last]


def _tolerance(image: Pixels) -> NDArray[np.float32] | float:
    """In the levels of the picture; of floats one for each channel [C]."""
    if image.dtype == np.uint8:
        return 255 * TOLERANCE
    flat = image.reshape(-1, image.shape[-1])
    return TOLERANCE * (flat.max(axis=0) - flat.min(axis=0))


def _in_border(lines: Pixels, tolerance: NDArray[np.float32] | float) -> int:
    """How many of the first lines [n, m, C] have the colour of their corner."""
    count, corner = 0, lines[0, 0].astype(np.float32)
    # Most pictures have no border: one line says so. Of others never many are looked at together.
    together = 1
    while count < len(lines):
        same = np.abs(lines[count : count + together] - corner) <= tolerance
        uniform = same.all(axis=(1, 2))
        if not uniform.all():
            return count + int(uniform.argmin())
        count, together = count + len(uniform), min(2 * together, TOGETHER)
    return count
