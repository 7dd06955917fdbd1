"""Self-attention of the class token (spec_evaluation 10.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ibot.models.backbone import Backbone
from ibot.models.swin import SwinTransformer


@torch.no_grad()
def class_attention(backbone: Backbone, images: Tensor) -> Tensor:
    """Attention of the class token to the patches in the last block: [B, heads, h, w].

    images: normalised [B, 3, H, W] on the backbone's device. Raises ValueError for a backbone
    without a class token.
    """
    if isinstance(backbone, SwinTransformer):
        raise ValueError("a Swin transformer has no class token whose attention could be shown")
    grid = backbone.token_grid(*images.shape[-2:])
    return backbone.attention_maps(images)[:, :, 0, 1 : 1 + grid[0] * grid[1]].unflatten(-1, grid)


def mass_mask(attention: Tensor, threshold: float = 0.6) -> Tensor:
    """Patches that hold the largest `threshold` of the attention: bool, shape of `attention` [...,
    h, w].
    """
    flat = attention.flatten(-2)
    values, order = flat.sort(dim=-1)
    kept = (values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1) > 1 - threshold
    return torch.zeros_like(kept).scatter(-1, order, kept).unflatten(-1, attention.shape[-2:])
