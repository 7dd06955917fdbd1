"""Resampling and blurring of many views as products of matrices, a row and a column filter each.

Weights are whole multiples of 2 ** -11 that sum to one: products with bytes and their sums are then
exact in float32, and in half precision summed in float32. So a view has the same bytes whatever
stands beside it in the batch, and on whichever device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels_channels import BOXES, box_radius

GRAIN = 2.0**11
"""Weights are multiples of one over it; half precision holds them exactly up to 1, and beyond that
multiples of twice as much."""
FINE = 2.0**20
"""The same for levels that are no bytes, whose sums are rounded anyway."""
_KERNEL_GRAIN = 2.0**16
"""The same of the kernel's values before they are divided by their sum, which is exact by it."""
_NEARLY_ONE = 0.99
"""From here on what rounding leaves over may take a weight beyond 1."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of pixels to be resized."""

    begin: Tensor
    """float32 [n], where in the first pixel a row begins, 0 to 1."""
    length: Tensor
    """float32 [n], of the row in pixels."""
    pixels: Tensor
    """[n], how many pixels it touches."""
    most: int
    """The largest of them."""


def resize_weights(rows: Rows, out: int, backwards: Tensor, grain: float = GRAIN) -> Tensor:
    """Matrices [n, out, rows.most] that resize rows to `out` pixels.

    Bicubic with antialiasing and a = -0.5, as Pillow's: the kernel is as wide as the shrinking asks
    for, and cut at the ends of the row. backwards: bool [n], rows to be turned round.
    """
    place = torch.arange(out, device=backwards.device, dtype=torch.float32)
    place = torch.where(backwards[:, None], out - 1 - place, place)
    scale = rows.length[:, None] / out
    width = scale.clamp(min=1)
    centre = rows.begin[:, None] + (place + 0.5) * scale
    first = (centre - 2 * width + 0.5).floor().clamp(min=0)
    end = torch.minimum((centre + 2 * width + 0.5).floor(), rows.pixels[:, None])
    taps = 2 * math.ceil(2 * max(1.0, rows.most / out)) + 1
    pixel = first[..., None] + torch.arange(taps, device=backwards.device)
    kernel = _bicubic((pixel + 0.5 - centre[..., None]) / width[..., None])
    kernel = (kernel * _KERNEL_GRAIN).round() * (pixel < end[..., None])
    weights = kernel / kernel.sum(dim=-1, keepdim=True)
    # At the ends of enlarged rows weights pass 1, where half precision is coarser.
    grains = torch.where(weights.amax(dim=-1, keepdim=True) > _NEARLY_ONE, grain / 2, grain)
    weights = (weights * grains).round() / grains
    # What rounding left over goes to the pixel in the middle: a plain area keeps its level.
    left_over = 1 - weights.sum(dim=-1, keepdim=True)
    weights += left_over * (pixel == centre.floor()[..., None])
    # Taps beyond the end weigh nothing, but need columns of their own to be written to.
    matrices = weights.new_zeros(*place.shape, rows.most + taps)
    return matrices.scatter_(2, pixel.long(), weights)[..., : rows.most]


def _bicubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def blur_steps(sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of the first 0, 1, ... taps of `blur_kernels` of each `sigma` [n] > 0: [n, 2 r + 2]."""
    kernels = blur_kernels(sigma.astype(np.float64))
    steps = np.concatenate([np.zeros((len(sigma), 1)), np.cumsum(kernels, axis=1)], axis=1)
    return (np.rint(steps * GRAIN) / GRAIN).astype(np.float32)


def blur_kernels(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernels [n, 2 r + 1] of Pillow's Gaussian blur, three box blurs, of each `sigma` [n] > 0; r
    is the largest radius.
    """
    radius = box_radius(sigma)
    reach = int(radius.max()) + 1
    distance = np.abs(np.arange(-reach, reach + 1))
    covered = (radius[:, None] + 1 - distance).clip(0, 1)  # of the pixel at that distance
    box = covered / (2 * radius[:, None] + 1)
    kernel = box
    for _ in range(BOXES - 1):
        kernel = _convolved(kernel, box)
    return kernel


def _convolved(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of [n, i] and [n, j] convolved: [n, i + j - 1]."""
    out = np.zeros((len(a), a.shape[1] + b.shape[1] - 1))
    for shift in range(b.shape[1]):
        out[:, shift : shift + a.shape[1]] += a * b[:, shift : shift + 1]
    return out


def blur_weights(steps: Tensor, side: int) -> Tensor:
    """Matrices [n, side, side] that blur rows of `side` pixels, from `blur_steps` [n, 2 r + 2].

    Beyond its ends a row goes on as its last pixel.
    """
    reach = steps.shape[1] // 2 - 1
    place = torch.arange(side, device=steps.device)
    shift = place[None, :] - place[:, None] + reach
    below = steps[:, shift.clamp(0, 2 * reach + 1)]
    above = steps[:, (shift + 1).clamp(0, 2 * reach + 1)]
    below[..., 0], above[..., -1] = 0, 1
    return above - below


def product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product [n, i, j] x [n, j, k] in float32; of halves on a GPU by its matrix units."""
    if a.dtype is torch.float16:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a, b)
