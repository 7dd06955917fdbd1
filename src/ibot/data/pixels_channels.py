"""Views of images whose channels are float levels: the reference, one image at a time.

Every channel is cropped and resized by Pillow by itself, in its mode F: nothing is rounded, clipped
or cast. The colour operations are those that mean something for channels of any kind and scale:

- brightness: v + (f - 1) * std, a shift by a share of the channel's deviation in the data, as a
  factor would move channels far from zero most;
- contrast: m + f * (v - m), m the mean of the channel in this view;
- blur: Gaussian, three box blurs each way of the widths that Pillow takes.

They come in the order that was drawn. Saturation, hue, gray and solarization mix or invert colours;
they are not done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.params import BRIGHTNESS, CONTRAST, NO_JITTER
from ibot.types import ViewParams

Levels = NDArray[np.float32]
BOXES = 3
"""Box blurs each way that make a Gaussian one."""


def render_view(
    image: Levels,
    params: ViewParams,
    row: int,
    view: int,
    size: tuple[int, int],
    std: Sequence[float],
) -> Levels:
    """One view [h, w, C] of an image [H, W, C], which stands at `row` of the parameters.

    size: height and width. std: deviation of each channel in the data; ValueError for another
    number than C.
    """
    if len(std) != image.shape[2]:
        raise ValueError(f"{len(std)} deviations for an image of {image.shape[2]} channels")
    top, left, height, width = params.box[row, view].tolist()
    # Cut first, as for pictures: nothing outside of the box is read at its border.
    out = resized(image[top : top + height, left : left + width], size)
    if params.flip[row, view]:
        out = out[:, ::-1]
    if params.vertical_flip[row, view]:
        out = out[::-1]
    if turn := int(params.turn[row, view]):
        out = np.rot90(out, turn)
    order = params.jitter_order[row, view].tolist()
    if order[0] != NO_JITTER:
        factors = params.jitter[row, view]
        for operation in order:
            if operation == BRIGHTNESS:
                out = out + (factors[BRIGHTNESS] - 1) * np.asarray(std, np.float32)
            elif operation == CONTRAST:
                mean = out.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
                out = mean + factors[CONTRAST] * (out - mean)
    sigma = float(params.blur_sigma[row, view])
    return np.ascontiguousarray(blur(out, sigma) if sigma > 0 else out)


def resized(image: Levels, size: tuple[int, int]) -> Levels:
    """[H, W, C] -> [h, w, C], bicubic with antialiasing."""
    return by_channel(
        image, lambda plane: plane.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    )


def by_channel(image: Levels, change: Callable[[Image.Image], Image.Image]) -> Levels:
    """Every channel of [H, W, C] as a picture of mode F, changed: [h, w, C]."""
    planes = [
        np.asarray(change(Image.fromarray(np.ascontiguousarray(image[..., c], np.float32))))
        for c in range(image.shape[2])
    ]
    return np.stack(planes, axis=-1)


def blur(image: Levels, sigma: float) -> Levels:
    """Gaussian blur of every channel [H, W, C]; `sigma` in pixels. The border is extended."""
    radius = float(box_radius(np.array(sigma)))
    out = image.astype(np.float64)
    for axis in (0, 1):
        for _ in range(BOXES):
            out = _box(out, radius, axis)
    return out.astype(np.float32)


def box_radius(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radius of the box that, applied three times, has the variance of a Gaussian of `sigma`, for
    any number of them.

    Its whole part counts fully, its fraction is the weight of one pixel more on either side
    (Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box
    filtering", equations 10 and 12).
    """
    variance = sigma * sigma / BOXES
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + share / (6 * (variance - (whole + 1) ** 2))


def _box(image: NDArray[np.float64], radius: float, axis: int) -> NDArray[np.float64]:
    whole, share = int(radius), radius - int(radius)
    length = image.shape[axis]
    margin = [(0, 0)] * image.ndim
    margin[axis] = (whole + 1, whole + 1)
    wide = np.pad(image, margin, mode="edge")

    def shifted(by: int) -> NDArray[np.float64]:
        return wide.take(range(whole + 1 + by, whole + 1 + by + length), axis)

    inner = shifted(0).copy()
    for by in range(1, whole + 1):
        inner += shifted(-by) + shifted(by)
    outer = shifted(-whole - 1) + shifted(whole + 1)
    return (inner + share * outer) / (2 * radius + 1)
