"""Stochastic depth that does not compute what it drops: branches of the kept samples alone.

On a CPU, where the factors can be read without waiting for a device; every block and step then has
a number of samples of its own, so compiled blocks, which want one shape, take the plain form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ibot.kernels.choice import chosen

MOST_KEPT = 0.9
"""Share of the samples up to which it pays: gathering them takes time too (docs/log.md)."""


def skips(x: Tensor, drop: Tensor | None) -> bool:
    """Whether a block at x [B, ...] leaves out the samples whose factor in `drop` [2, B] is 0."""
    if drop is None or drop.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    kept = drop.count_nonzero(dim=1)
    return bool((kept <= MOST_KEPT * drop.shape[1]).any()) and chosen("dropped samples", "left out")


def added(x: Tensor, branch: Callable[[Tensor], Tensor], factor: Tensor) -> Tensor:
    """X [B, ..., D] + factor [B] * branch(x); the branch sees the samples of other factors than 0.

    branch: treats each sample by itself.
    """
    kept, factor = factor.nonzero()[:, 0], factor.view(-1, *[1] * (x.dim() - 1))
    # Where all are dropped, too: the gradients of a branch are 0 then, not absent.
    if not 0 < len(kept) <= MOST_KEPT * len(x):
        return x + branch(x) * factor
    of_kept = branch(x.index_select(0, kept)) * factor[kept]
    return x.index_add(0, kept, of_kept.to(x.dtype))
