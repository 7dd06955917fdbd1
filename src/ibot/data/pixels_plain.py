"""Views of a batch without the kernel in C: what `pixels_fast` does where it was not built, and
with images of other channels than red, green and blue in bytes.

Bytes are resized by torch, within 2 of Pillow's levels; their hue is moved by tables, within a
level or two here and there; all else of them is Pillow's, which is fast enough. Levels (float32) go
the ways of `pixels_channels` in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.config.schema import AugmentConfig
from ibot.data import filters, pixels
from ibot.data.params import BRIGHTNESS, CONTRAST, HUE, NO_JITTER, num_views, view_size
from ibot.types import ViewParams

_SPREAD = 511
_HIGHEST = 256 * _SPREAD
"""Steps of the table of hues from spread to spread, and from channel to channel."""
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
    if out.is_floating_point():
        return _changed_levels(out, params, row, view, std)
    picture = Image.fromarray(out.permute(1, 2, 0).contiguous().numpy())
    changed = np.array(_changed_picture(picture, params, row, view))
    return torch.from_numpy(changed).permute(2, 0, 1)


def _changed_picture(picture: Image.Image, params: ViewParams, row: int, view: int) -> Image.Image:
    order, factors = params.jitter_order[row, view].tolist(), params.jitter[row, view].tolist()
    if order[0] != NO_JITTER:
        for operation in order:
            change = hue if operation == HUE else pixels.JITTER[operation]
            picture = change(picture, factors[operation])
    if params.gray[row, view]:
        picture = pixels.grayscale(picture)
    sigma = float(params.blur_sigma[row, view])
    if sigma > 0:
        picture = pixels.blur(picture, sigma)
    return pixels.solarize(picture) if params.solarize[row, view] else picture


def _changed_levels(
    out: Tensor, params: ViewParams, row: int, view: int, std: Sequence[float]
) -> Tensor:
    factors = params.jitter[row, view].tolist()
    for operation in params.jitter_order[row, view].tolist():
        if operation == BRIGHTNESS:
            out = out + (factors[operation] - 1) * torch.tensor(std).view(-1, 1, 1)
        elif operation == CONTRAST:
            mean = out.double().mean((1, 2), keepdim=True).float()
            out = mean + factors[operation] * (out - mean)
    sigma = float(params.blur_sigma[row, view])
    return blur(out, sigma) if sigma > 0 else out


def hue(picture: Image.Image, shift: float) -> Image.Image:
    """Shift the hue in bytes by trunc(255 * shift), modulo 256, by way of HSV bytes as Pillow does.

    Back from there a channel falls within a sixth of the circle from v to v (1 - s), stays there
    for two, and rises likewise: one expression for the six cases.
    """
    hues, saturations, falls = _hue_tables()
    planes = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
    value = planes.max(axis=0)
    spread = (value - planes.min(axis=0)).astype(np.int32)
    red, green, blue = planes.astype(np.int32)
    # How far apart the other two lie, after the channel that is highest, the first of equals.
    place = np.where(
        planes[0] == value,
        green - blue,
        np.where(planes[1] == value, blue - red + _HIGHEST, red - green + 2 * _HIGHEST),
    )
    place += spread * _SPREAD + 255
    level = hues.take(place) + np.uint8(int(shift * 255) % 256)
    brightest = value.astype(np.float32)
    loss = brightest * saturations.take(spread * 256 + value)
    out = [brightest - loss * fall.take(level) + np.float32(0.5) for fall in falls]
    return Image.fromarray(np.stack(out, axis=-1).astype(np.uint8))


@cache
def _hue_tables() -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Hue by [highest channel, spread, difference of the others + 255], saturation by [spread,
    value], and how far red, green and blue have fallen by [channel, hue].
    """
    spread, apart = np.arange(256)[:, None], np.arange(-255, 256)
    sixths = np.array([0, 2, 4])[:, None, None] + apart / np.maximum(spread, 1)
    hues = (255 * ((sixths / 6) % 1)).astype(np.uint8)
    hues[:, 0] = 0
    saturations = np.minimum(255 * spread // np.maximum(np.arange(256), 1), 255) / 255
    place = (6 * np.arange(256) + _SECTOR * np.array([[5], [3], [1]])) % (6 * _SECTOR)
    falls = np.minimum(place, 4 * _SECTOR - place).clip(0, _SECTOR) / _SECTOR
    return hues, saturations.astype(np.float32), falls.astype(np.float32)


def blur(view: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of float channels [C, h, w] by three boxes as one kernel; border extended."""
    kernel = filters.blur_kernels(np.array([sigma]))[0]
    reach, weights = len(kernel) // 2, torch.from_numpy(kernel).float()
    out = F.pad(view[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(out, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]
