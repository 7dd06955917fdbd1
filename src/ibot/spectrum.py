"""How many directions a spectrum fills: the one definition of the effective rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def effective_directions(energy: Tensor) -> float:
    """Exp of the entropy of `energy` [n], squared singular values or eigenvalues, as shares.

    n when all are equal, 1 for a line, and 1 when there is no energy at all.
    """
    total = energy.sum()
    if total <= 0:
        return 1.0
    share = energy / total
    return (-share.xlogy(share).sum()).exp().item()
