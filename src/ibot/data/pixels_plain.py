"""Views of a batch in torch, one at a time: what `pixels_fast` does where its kernel was not built,
and with images of other channels than red, green and blue in bytes.

Bytes are resized within 2 of Pillow's levels and brightened, blended, made gray and inverted with
its rounding; hue and blur keep fractions that Pillow rounds away between its steps. Levels (float32)
go the ways of `pixels_channels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.schema import AugmentConfig
from ibot.data.params import NO_JITTER, num_views, view_size
from ibot.data.pixels_channels import BOXES, BRIGHTNESS, CONTRAST, box_radius
from ibot.types import ViewParams

SATURATION = 2
"""Number in `ViewParams.jitter_order`; the one that is left is hue."""
_LUMA = (19595, 38470, 7471)
"""Of red, green and blue, in 2^16ths."""
_SECTOR = 255
"""Hues of a sixth of the circle, as the six-fold of a hue in bytes counts them."""


def render_batch(
    images: Sequence[NDArray[np.generic]],
    params: ViewParams,
    config: AugmentConfig,
    std: Sequence[float],
) -> list[Tensor]:
    """All views of images [H, W, C], uint8 with three channels or float32: V times [B, C, h, w]."""
    views = range(num_views(config))
    rendered = [
        torch.empty((len(images), images[0].shape[2], *view_size(config, view)), dtype=kind)
        for kind in [torch.uint8 if images[0].dtype == np.uint8 else torch.float32]
        for view in views
    ]
    for row, image in enumerate(images):
        for view in views:
            size = view_size(config, view)
            rendered[view][row] = render_view(image, params, row, view, size, std)
    return rendered


def render_view(
    image: NDArray[np.generic],
    params: ViewParams,
    row: int,
    view: int,
    size: tuple[int, int],
    std: Sequence[float],
) -> Tensor:
    """One view [C, h, w] of an image [H, W, C], which stands at `row` of the parameters."""
    top, left, height, width = params.box[row, view].tolist()
    # A copy: pixels of Pillow are read-only, which torch does not know.
    cut = torch.from_numpy(np.array(image[top : top + height, left : left + width]))
    out = F.interpolate(cut.permute(2, 0, 1)[None], size, mode="bicubic", antialias=True)[0]
    mirrored = [2] * bool(params.flip[row, view]) + [1] * bool(params.vertical_flip[row, view])
    out = torch.rot90(out.flip(mirrored), int(params.turn[row, view]), (1, 2)).contiguous()
    order, factors = params.jitter_order[row, view].tolist(), params.jitter[row, view].tolist()
    sigma = float(params.blur_sigma[row, view])
    if out.is_floating_point():
        for operation in order:
            if operation == BRIGHTNESS:
                out = out + (factors[operation] - 1) * torch.tensor(std).view(-1, 1, 1)
            elif operation == CONTRAST:
                mean = out.double().mean((1, 2), keepdim=True).float()
                out = mean + factors[operation] * (out - mean)
        return blur(out, sigma) if sigma > 0 else out
    if order[0] != NO_JITTER:
        for operation in order:
            out = _jittered(out, operation, factors[operation])
    if params.gray[row, view]:
        out = luma(out).to(torch.uint8).expand(3, -1, -1)
    if sigma > 0:
        out = blur(out.float(), sigma).round().clamp(0, 255).to(torch.uint8)
    return torch.where(out < 128, out, 255 - out) if params.solarize[row, view] else out


def luma(view: Tensor) -> Tensor:
    """Gray levels int32 [h, w] of bytes [3, h, w]."""
    weighted = view.int() * torch.tensor(_LUMA, dtype=torch.int32).view(3, 1, 1)
    return (weighted.sum(0, dtype=torch.int32) + 2**15) >> 16


def _jittered(view: Tensor, operation: int, factor: float) -> Tensor:
    if operation == BRIGHTNESS:
        return _blend(torch.zeros(()), view, factor)
    if operation == CONTRAST:
        return _blend((luma(view).double().mean() + 0.5).floor().float(), view, factor)
    return (
        _blend(luma(view).float(), view, factor) if operation == SATURATION else hue(view, factor)
    )


def _blend(base: Tensor, view: Tensor, factor: float) -> Tensor:
    """Pillow's blend: base + factor * (level - base) in float32, clipped, truncated."""
    return (base + factor * (view.float() - base)).clamp(0, 255).to(torch.uint8)


def hue(view: Tensor, shift: float) -> Tensor:
    """Bytes [3, h, w] with their hue shifted by trunc(255 * shift) of 255, by way of HSV bytes.

    A channel falls within a sixth of the circle from v to v (1 - s), stays there for two, and rises
    likewise: one expression for the six cases.
    """
    levels = view.float()
    value, lowest = levels.amax(0), levels.amin(0)
    spread = value - lowest
    red, green, blue = ((value - levels) / spread.clamp(min=1)).unbind()
    sixths = torch.where(
        levels[0] == value,
        blue - green,
        torch.where(levels[1] == value, 2 + red - blue, 4 + green - red),
    )
    saturation = (255 * spread / value.clamp(min=1)).floor() / 255
    turned = (255 * (sixths / 6).remainder(1)).floor() + int(shift * 255)
    six = 6 * turned.remainder(256)
    place = (six + _SECTOR * torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1)) % (6 * _SECTOR)
    share = torch.minimum(place, 4 * _SECTOR - place).clamp(0, _SECTOR) / _SECTOR
    return (value * (1 - saturation * share)).round().to(torch.uint8)


def blur(view: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of float channels [C, h, w] by three box blurs as one kernel; border extended."""
    radius = box_radius(sigma)
    whole = int(radius)
    box = np.ones(2 * whole + 3)
    box[[0, -1]] = radius - whole
    kernel = np.ones(1)
    for _ in range(BOXES):
        kernel = np.convolve(kernel, box / box.sum())
    reach, weights = len(kernel) // 2, torch.from_numpy(kernel).float()
    out = F.pad(view[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(out, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]
