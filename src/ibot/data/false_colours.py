"""Images of any number of channels as pictures in red, green and blue: the false-colour rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRETCH = (2.0, 98.0)
"""Percentiles of a channel that become black and full colour, where its levels are no bytes."""
NO_NUMBER = 0
"""Level of pixels that hold NaN or infinity: black in all channels."""
_MOST_PIXELS = 2**18
"""Evenly spaced pixels from which percentiles and components are computed."""


def as_rgb(
    image: NDArray[Any], channels: Sequence[int] | None = None, stretch: bool | None = None
) -> NDArray[np.uint8]:
    """An image of any number of channels and any levels as uint8 [H, W, 3].

    - one channel, [H, W] or [H, W, 1]: gray;
    - two: the first red, the second green and blue (red beside cyan, which most people can tell);
    - three: red, green, blue;
    - four or more: the first three principal components of the pixels, the one of most variance as
      brightness-like red first, each signed so that its largest weight is positive; or the
      `channels` that are named.

    Bytes of one to three channels are taken as they are. All other levels are stretched per channel
    from percentiles 2..98 to 0..255, over the finite numbers alone, and so are components. A
    pixel with NaN or infinity in any channel that is used is black.
    They are for people, and for networks of three channels that are shown images of others.

    Args:
        image: [H, W] or [H, W, C], bool, integers or floats.
        channels: three numbers of channels to be red, green and blue.
        stretch: whether to stretch percentiles; None: unless they are bytes of one to three
            channels. Without it integers are divided by the range of their type, floats are 0..1.

    Raises:
        ValueError: another shape, no pixels, levels that are no numbers, channels that are not
            there.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or not image.size:
        raise ValueError(f"an image is [H, W] or [H, W, C], not {list(image.shape)}")
    if image.dtype.kind not in "buif":
        raise ValueError(f"levels are numbers, not {image.dtype}")
    if channels is not None:
        image = image[..., _checked(channels, image.shape[2])]
    count = image.shape[2]
    if image.dtype == np.uint8 and count <= 3 and not stretch:
        return image[..., _PLACES[count]].copy()
    levels = image.astype(np.float64)
    finite = np.asarray(np.isfinite(levels).all(axis=-1))
    if count > 3:
        levels = _components(levels, finite)
    if stretch is not False or count > 3:
        levels = _stretched(levels, finite)
    elif image.dtype.kind in "iu":
        kind = np.iinfo(image.dtype)
        levels = (levels - kind.min) / (kind.max - kind.min)
    shades = np.rint(255 * np.where(finite[..., None], levels, 0).clip(0, 1)).astype(np.uint8)
    shades[~finite] = NO_NUMBER
    return shades[..., _PLACES.get(count, [0, 1, 2])]


_PLACES = {1: [0, 0, 0], 2: [0, 1, 1], 3: [0, 1, 2]}
"""Which channel is red, green and blue, by their number."""


def _checked(channels: Sequence[int], count: int) -> list[int]:
    if len(channels) != 3 or not all(0 <= one < count for one in channels):
        raise ValueError(f"name three channels in 0..{count - 1}, not {list(channels)}")
    return list(channels)


def _sample(levels: NDArray[np.float64], finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Some finite pixels [n, C], evenly spaced."""
    pixels = levels[finite]
    return pixels[:: max(1, len(pixels) // _MOST_PIXELS)]


def _stretched(levels: NDArray[np.float64], finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Percentiles of each channel to 0..1; a channel of one level becomes 0."""
    pixels = _sample(levels, finite)
    if not len(pixels):
        return levels
    low, high = np.percentile(pixels, STRETCH, axis=0)
    # Where the percentiles meet (masks, rare bright spots) the whole range is shown.
    same = high <= low
    low, high = np.where(same, pixels.min(0), low), np.where(same, pixels.max(0), high)
    return (levels - low) / np.where(high > low, high - low, 1.0)


def _components(levels: NDArray[np.float64], finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The first three principal components of the pixels, each channel scaled to unit variance."""
    pixels = _sample(levels, finite)
    if not len(pixels):
        return levels[..., :3]
    mean, deviation = pixels.mean(0), pixels.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    normal = (pixels - mean) / scale
    _, axes = np.linalg.eigh(normal.T @ normal)
    axes = axes[:, ::-1][:, :3]
    largest = np.abs(axes).argmax(0)
    axes = axes * np.sign(axes[largest, np.arange(3)])
    return ((np.where(finite[..., None], levels, mean) - mean) / scale) @ axes
