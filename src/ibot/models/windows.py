"""Places inside the shifted windows of a Swin: which tokens are how far apart, and which are
neighbours by the shift alone (spec 3.2).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SHIFT_PENALTY = -100.0
"""Added to the score of two tokens that the shift made neighbours; as published, not infinite."""


def relative_index(side: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window: int64 [q * q, q * q]."""
    axes = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack(axes).flatten(1)
    row, column = place[:, :, None] - place[:, None, :] + side - 1
    return row * (2 * side - 1) + column


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shift_penalty(rows: int, columns: int, side: int, shift: int, device: torch.device) -> Tensor:
    """Penalty [n, q * q, q * q] between tokens that only the shift brought into one window.

    Kept for each map size; what an evaluation leaves in the cache must serve training too.
    """

    def region(length: int) -> Tensor:
        index = torch.arange(length, device=device)
        return (index >= length - side).long() + (index >= length - shift).long()

    label = 3 * region(rows)[:, None] + region(columns)
    label = label.unflatten(0, (-1, side)).unflatten(2, (-1, side))
    label = label.transpose(1, 2).reshape(-1, side * side)
    return (label[:, :, None] != label[:, None, :]) * SHIFT_PENALTY
