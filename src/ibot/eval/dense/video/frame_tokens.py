"""Frames as tokens, and soft maps of tokens as masks of frames (spec_evaluation 8.12)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.data.pixels import Statistics, normalize
from ibot.errors import UserError
from ibot.eval.dense.rescale import resize_bilinear
from ibot.eval.dense.video.settings import Features
from ibot.models.contract import Backbone

MULTIPLE, PUBLISHED_SIZE = 64, 480
"""Pixels of which the longer side is a multiple where the shorter one has so many or more."""
PUBLISHED_STD = (0.228, 0.224, 0.225)
"""With a slip in the first number."""


def input_size(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Height and width in pixels of a frame as the network sees it, whole patches.

    The shorter side is `size`, the longer one what keeps the aspect, rounded down to a multiple of
    64; of a square the width is the longer one. Below 480 pixels the multiple shrinks with `size`,
    as so coarse a step would squeeze small frames. Raises UserError.
    """
    short = size // patch * patch
    if not short:
        raise UserError(f"size={size} is smaller than a patch", fix=f"size={patch} or more")
    step = MULTIPLE * min(1.0, size / PUBLISHED_SIZE)
    multiple = patch * max(1, round(step / patch))
    long = short * max(height, width) // min(height, width) // multiple * multiple
    return (short, long) if height <= width else (long, short)


def frame_tokens(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    backbone: Backbone,
    statistics: Statistics,
    features: Features = "network",
) -> Tensor:
    """Tokens [h, w, D] of length 1 of a frame, uint8 [H, W, 3], on the device of the backbone.

    size: of the input. The last block's after the final norm, or the pixels of each patch. Raises
    MissingExtra.
    """
    device = next(backbone.parameters()).device
    image = torch.from_numpy(resize_bilinear(pixels, size).copy())
    image = normalize(image.permute(2, 0, 1)[None].to(device), statistics)
    grid = backbone.token_grid(*size)
    if features == "network":
        tokens = backbone(image).patches[0]
    else:
        tokens = F.unfold(image, backbone.patch_size, stride=backbone.patch_size)[0].T
    return F.normalize(tokens.float(), dim=-1).unflatten(0, grid)


def soft_from_mask(
    mask: NDArray[np.uint8], objects: tuple[int, ...], grid: tuple[int, int]
) -> Tensor:
    """One-hot map [h, w, C] of a mask [H, W] on the token grid; channel 0 is the background.

    Objects smaller than a token may have no token.
    """
    small = np.asarray(Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST))
    channels = torch.from_numpy(small.astype(np.int64))[..., None] == torch.tensor(objects)
    return torch.cat([~channels.any(dim=-1, keepdim=True), channels], dim=-1).float()


def mask_from_soft(
    soft: Tensor, objects: tuple[int, ...], patch: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Mask [H, W] of `size` with the numbers of the objects, from a soft map [h, w, C]."""
    maps = F.interpolate(
        soft.permute(2, 0, 1)[None], scale_factor=patch, mode="bilinear", align_corners=False
    )[0]
    lowest, highest = (found[:, None, None] for found in (maps.amin((1, 2)), maps.amax((1, 2))))
    spread = highest - lowest
    # A constant channel is left as it is: the published code divides by 0 there, or by rounding.
    stretched = torch.where(spread > 1e-6 * highest, (maps - lowest) / spread, maps)
    numbers = torch.tensor((0, *objects), dtype=torch.uint8)
    mask = numbers[stretched.argmax(dim=0).cpu()].numpy()
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
