"""What readers of channels share: what is asked of them, what a header says, upright arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import MAX_PIXELS
from ibot.data.decode import Orientation, UnreadableImage

VALUES_PER_PIXEL = 16
"""`max_pixels` times this many values are read of all channels together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a file is read."""

    exif_orientation: Orientation = "apply"
    """Whether an image is turned upright by its tag."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused, from their headers."""
    no_data: tuple[float, ...] = ()
    """Values that mean that nothing was measured, beside those that the file declares."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before its pixels are read."""

    height: int
    """In pixels, of the upright image."""
    width: int
    names: tuple[str, ...]
    """Of the channels."""


def require_size(height: int, width: int, channels: int, how: How) -> None:
    """Raise UnreadableImage for nothing, and for more than may be read."""
    if min(height, width, channels) < 1:
        raise UnreadableImage("bad dimensions")
    values = height * width * channels
    if height * width > how.max_pixels or values > VALUES_PER_PIXEL * how.max_pixels:
        shape = f"{width} x {height}" + (f" x {channels} channels" if channels > 1 else "")
        raise UnreadableImage(
            "too many pixels", f"{shape}; data.max_pixels or --max-pixels allows more"
        )


def is_transposed(orientation: int) -> bool:
    """Whether an image of this EXIF orientation is stored with its height as its width."""
    return 5 <= orientation <= 8


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels [H, W, ...] turned upright by their EXIF orientation 1 to 8; a view."""
    if is_transposed(orientation):
        values = np.swapaxes(values, 0, 1)
    # Rows and columns that are in reverse, after the exchange.
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    return values[:: -1 if rows else 1, :: -1 if columns else 1]
