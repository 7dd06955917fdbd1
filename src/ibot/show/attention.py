"""Self-attention of the class token (spec_evaluation 10.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ibot.models.contract import Backbone


@torch.no_grad()
def class_attention(backbone: Backbone, images: Tensor) -> Tensor:
    """Attention of the class token to the patches in the last block, as maps: [B, heads, h, w].

    images: normalised [B, 3, H, W]. Raises ValueError for a backbone without such attention.
    """
    tokens, attention = backbone.tokens_and_attention(images)
    return attention.unflatten(-1, tokens.grid)
