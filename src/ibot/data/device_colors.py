"""Colours of many views at once, each with operations of its own in an order of its own.

Views are levels 0..255 in float32 [n, h, 3, w]: rows, then channels, as the products of
`pixels_device` leave them. Arithmetic follows Pillow's, up to rounding where it is not whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.params import BRIGHTNESS, CONTRAST, HUE, NO_JITTER, SATURATION

_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Shares of red, green and blue in a gray level: sums of bytes are exact in float32."""


@dataclass(frozen=True, slots=True)
class Blend:
    """One position of the drawn orders: every view blended with black, its mean gray, or its gray.

    Factors of 1 leave a view as it is.
    """

    factor: NDArray[np.float32]
    """[n]."""
    with_gray: NDArray[np.float32]
    """[n], 1: the view's own gray levels are what it is blended with."""
    with_mean: NDArray[np.float32]
    """[n], 1: their mean is."""
    hue_rows: NDArray[np.int64]
    """Views whose hue is shifted at this position."""


def blends(order: NDArray[np.uint8], factors: NDArray[np.float32]) -> list[Blend]:
    """What happens at each position, from orders and factors [n, 4]; nothing without jitter."""
    jittered = order[:, 0] != NO_JITTER
    if not jittered.any():
        return []
    rows = np.arange(len(order))
    found = []
    for operation in order.T:
        blended = jittered & (operation != HUE)
        factor = factors[rows, np.where(jittered, operation, 0)]
        found.append(
            Blend(
                factor=np.where(blended, factor, 1).astype(np.float32),
                with_gray=(operation == SATURATION).astype(np.float32),
                with_mean=(operation == CONTRAST).astype(np.float32),
                hue_rows=np.flatnonzero(jittered & (operation == HUE)),
            )
        )
    return found


def blend(views: Tensor, factor: Tensor, with_gray: Tensor, with_mean: Tensor) -> Tensor:
    """Base + factor * (view - base), clipped and truncated; factors [n], see `Blend`."""
    gray = luma(views)
    sums, count = gray.to(torch.uint8).sum(dim=(1, 2, 3)), gray[0].numel()
    mean = (2 * sums + count) // (2 * count) * with_mean
    base = gray * _each(with_gray) + _each(mean)
    return torch.lerp(base.expand_as(views), views, _each(factor)).clamp_(0, 255).floor_()


def luma(views: Tensor) -> Tensor:
    """Gray levels [n, h, 1, w] of views [n, h, 3, w]."""
    red, green, blue = views.split(1, dim=2)
    gray = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return gray.add_(0.5).floor_()


def hue(views: Tensor, shift: Tensor) -> Tensor:
    """Hues of 256 levels moved by `shift` [n] whole levels, modulo 256, as Pillow rounds them."""
    red, green, blue = views.unbind(dim=2)
    value, chroma = views.amax(dim=2), views.amax(dim=2) - views.amin(dim=2)
    divisor = chroma.clamp(min=1)
    sector = torch.where(
        red == value,
        (green - blue) / divisor,
        torch.where(green == value, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    level = ((sector / 6 + 1).frac() * 255).floor() * (chroma > 0)
    level = (level + shift[:, None, None]) % 256
    saturation = (chroma / value.clamp(min=1) * 255).floor() / 255
    # Each channel falls from the value by a trapezoid over the circle of hues.
    starts = 5.0 - 2 * torch.arange(3, device=views.device)[:, None]
    angle = ((level * 6 / 255)[:, :, None] + starts) % 6
    fall = torch.minimum(angle, 4 - angle).clamp_(0, 1)
    return (value[:, :, None] * (1 - saturation[:, :, None] * fall) + 0.5).floor_()


def solarize(views: Tensor) -> Tensor:
    """Levels of 128 and more inverted."""
    return torch.where(views < 128, views, 255 - views)


def channel_blends(
    order: NDArray[np.uint8], factors: NDArray[np.float32]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Contrast factors and brightness shifts [n] at each position; nothing without jitter."""
    if (order[:, 0] == NO_JITTER).all():
        return []
    return [
        (
            np.where(operation == CONTRAST, factors[:, CONTRAST], 1).astype(np.float32),
            np.where(operation == BRIGHTNESS, factors[:, BRIGHTNESS] - 1, 0).astype(np.float32),
        )
        for operation in order.T
    ]


def blend_channels(views: Tensor, factor: Tensor, shift: Tensor, std: Tensor) -> Tensor:
    """Levels [n, h, C, w] of any channels: each scaled about its mean in the view by `factor` [n],
    then moved by the share `shift` [n] of its deviation `std` [C].
    """
    mean = views.mean(dim=(1, 3), keepdim=True)
    scaled = torch.lerp(mean.expand_as(views), views, _each(factor))
    return scaled + _each(shift) * std[:, None]


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
