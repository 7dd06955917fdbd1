"""What stands for an image in retrieval and copy detection (spec_evaluation 8.13, 8.14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.data.pixels import Statistics, renormalize
from ibot.eval.features.views import View
from ibot.models.contract import Backbone

PIXELS = View((32, 32), fit="squash")
"""How images are seen where their pixels are compared."""
AS_STORED: Statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True)
class MultiScale:
    """Mean of the class tokens of an image at several scales."""

    scales: tuple[float, ...]

    def __str__(self) -> str:
        return f"cls at {','.join(f'{scale:.6g}' for scale in self.scales)}"

    def compute(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Normalised `images` [b, 3, H, W] -> float32 [b, D], of length 1."""
        smallest = backbone.map_shape(1).stride
        seen = [backbone(at_scale(images, scale, smallest)).cls for scale in self.scales]
        return F.normalize(torch.stack(seen).float().mean(dim=0), dim=-1)


@dataclass(frozen=True, slots=True)
class TokenAndGem:
    """The class token, then the generalised mean of the patch tokens, after the final norm."""

    def __str__(self) -> str:
        return "cls and GeM"

    def compute(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Normalised `images` [b, 3, H, W] -> float32 [b, 2D]."""
        tokens = backbone(at_scale(images, 1, backbone.map_shape(1).stride))
        return torch.cat([tokens.cls.float(), gem(tokens.patches.float())], dim=-1)


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of an image, less their mean: cosines of such rows are correlations."""

    def __str__(self) -> str:
        return "pixels"

    def compute(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Normalised `images` [b, 3, H, W] -> float32 [b, 3HW] in 0..1 before the mean is taken."""
        rows = renormalize(images, backbone.statistics, AS_STORED).flatten(1)
        return rows - rows.mean(dim=1, keepdim=True)


Descriptor = MultiScale | TokenAndGem | Pixels


def at_scale(images: Tensor, scale: float, smallest: int) -> Tensor:
    """Images [b, C, H, W] resized as published: bilinear, without antialiasing.

    A side that would be below `smallest` pixels, where a network sees nothing, becomes that.
    """
    sides = [int(side * scale) for side in images.shape[-2:]]
    if min(sides) < smallest:
        size = [max(side, smallest) for side in sides]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    if scale == 1:
        return images
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)


def gem(tokens: Tensor, power: float = 4.0, least: float = 1e-6) -> Tensor:
    """Generalised mean over the tokens: [b, N, D] -> [b, D]; values below `least` count as that."""
    return tokens.clamp(min=least).pow(power).mean(dim=1).pow(1 / power)


@dataclass(frozen=True, slots=True)
class Whitening:
    """Turns rows [n, D] so that those it was made of have a second moment, or variance, of 1."""

    mean: Tensor
    """float64 [D]."""
    directions: Tensor
    """float64 [D, D]."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows [n, D] of any type -> float32 [n, D]."""
        return ((rows.double() - self.mean) @ self.directions).float()


def whitening(rows: Tensor, *, centred: bool, block: int = 8192) -> Whitening:
    """The whitening by rows [n, D], read in blocks.

    centred: scale by their covariance. Else, as published, by the moment of rows from which no mean
    was taken, though it is taken from what is whitened. Eigenvalues below 1e-5 of the largest are
    raised to that.
    """
    mean, moment = moments(rows, block=block)
    values, vectors = torch.linalg.eigh(moment - torch.outer(mean, mean) if centred else moment)
    scale = values.clamp(min=1e-5 * float(values.max())).rsqrt()
    return Whitening(mean, vectors * scale)


def moments(rows: Tensor, *, block: int = 8192) -> tuple[Tensor, Tensor]:
    """Mean [D] and second moment X^T X / n [D, D] of rows [n, D], in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    squares = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    parts: Sequence[Tensor] = rows.split(block)
    for part in parts:
        part = part.double()
        total += part.sum(dim=0)
        squares += part.T @ part
    return total / len(rows), squares / len(rows)
