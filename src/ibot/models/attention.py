"""What the attention of a class token says about an image."""

from __future__ import annotations

import torch
from torch import Tensor


def foreground(attention: Tensor, mass: float) -> Tensor:
    """The fewest patches whose attention reaches the share `mass` of the whole.

    Ascending order, normalised, cumulated: foreground is where the cumulative sum exceeds 1 - mass
    (spec_evaluation 9.5, 10.1). So patches without any attention are background even at mass 1.

    Args:
        attention: [..., N] of the class token to the patches; a row need not sum to one.
        mass: share of the attention in 0..1.

    Returns:
        bool [..., N], True = foreground.

    Raises:
        ValueError: a mass outside 0..1, or a row that is negative, not finite or zero throughout.
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"the mass is a share between 0 and 1, not {mass}")
    values, order = attention.double().sort(dim=-1, stable=True)
    total = values.sum(dim=-1, keepdim=True)
    if not (bool(values.ge(0).all()) and bool(total.isfinite().all()) and bool(total.gt(0).all())):
        raise ValueError(
            "attention must be finite, not negative, and positive somewhere in every image"
        )
    # Rounding may carry the sum above one, and with mass 0 nothing must be foreground.
    reached = (values / total).cumsum(dim=-1).clamp(max=1) > 1 - mass
    return torch.zeros_like(reached).scatter_(-1, order, reached)
