"""What stands for a patch: the token of a network, or the pixels that a network must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ibot.eval.features.tokens import finite
from ibot.models.contract import Backbone

PatchFeature = Literal["network", "pixels"]
"""The patch token after the final norm, or the normalised pixels of the patch."""


class PatchMap(NamedTuple):
    """One row for each patch."""

    rows: Tensor
    """float32 [b, N, D]."""
    grid: tuple[int, int]
    """Rows and columns of the patches, h * w = N."""


Encode = Callable[[Tensor], PatchMap]
"""Takes images [b, 3, H, W], normalised for the network."""


def encoder(backbone: Backbone, feature: PatchFeature) -> Encode:
    """What makes rows of the patches of images, for the patches of `backbone` in either case.

    Raises WeightsError, when called, where an output of the network is not finite.
    """

    def tokens(images: Tensor) -> PatchMap:
        output = backbone(images)
        return PatchMap(finite(output.patches.float()), output.grid)

    def pixels(images: Tensor) -> PatchMap:
        grid = backbone.token_grid(*images.shape[-2:])
        return PatchMap(pixel_rows(images, grid, backbone.patch_size), grid)

    return tokens if feature == "network" else pixels


def pixel_rows(images: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Pixels of the patches of images [b, 3, H, W]: [b, h * w, 3 * patch * patch].

    What a grid (h, w) leaves at the lower and right border is cut off, what it lacks there is zero.
    """
    height, width = (side * patch for side in grid)
    lacking = max(0, width - images.shape[-1]), max(0, height - images.shape[-2])
    padded = F.pad(images, (0, lacking[0], 0, lacking[1]))[..., :height, :width]
    return F.unfold(padded, patch, stride=patch).transpose(1, 2)
