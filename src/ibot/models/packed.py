"""Tokens of views of several sizes in one matrix, for one pass instead of one for each size.

Norms, projections and MLPs take each token by itself, so they run once on the rows of all views:
fewer and larger calls. Attention is among the tokens of one view, so the rows are split by size for
it alone. The same numbers as separate passes, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ibot.models.layers import Attention


class Packing(NamedTuple):
    """What is known of the rows [R, D] of a packed pass."""

    sizes: tuple[tuple[int, int], ...]
    """Views and tokens of each size, in the order of the rows."""
    view: Tensor
    """int64 [R], the number of the view that each row belongs to, counted over all sizes."""

    @property
    def num_views(self) -> int:
        """Of all sizes."""
        return sum(views for views, _ in self.sizes)

    @property
    def lengths(self) -> list[int]:
        """Rows of each size."""
        return [views * tokens for views, tokens in self.sizes]


def pack(parts: Sequence[Tensor]) -> tuple[Tensor, Packing]:
    """Tokens [B, T, D] of each size -> their rows [R, D], and what is known of them."""
    sizes = tuple((part.shape[0], part.shape[1]) for part in parts)
    numbers, first = [], 0
    for views, tokens in sizes:
        numbers.append(
            torch.arange(first, first + views, device=parts[0].device).repeat_interleave(tokens)
        )
        first += views
    return torch.cat([part.flatten(0, 1) for part in parts]), Packing(sizes, torch.cat(numbers))


def attend_packed(attention: Attention, x: Tensor, packing: Packing) -> Tensor:
    """Values mixed by attention within each view: rows [R, D] -> [R, D]."""
    parts = attention.qkv(x).split(packing.lengths)
    mixed = [
        attention.mix(part.unflatten(0, size)).flatten(0, 1)
        for part, size in zip(parts, packing.sizes, strict=True)
    ]
    return torch.cat(mixed)
