"""Less memory for activations: blocks that are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ibot.models.contract import Backbone


def recompute_blocks(backbone: Backbone) -> None:
    """Keep the inputs of the blocks alone for the backward pass; the numbers stay the same.

    Stochastic depth is drawn again as it was.
    """
    for block in backbone.blocks_for_sharding():
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False)
