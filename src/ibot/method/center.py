"""Teacher targets without collapse: the running centers (paper section 3.2, spec 5.5) and Sinkhorn-Knopp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Center(nn.Module):
    """Running mean of the teacher's raw logits over all rows, micro-batches and processes."""

    value: Tensor
    pending: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))
        # Sum of logits and number of rows since the last update, in one vector to be reduced at once.
        self.register_buffer("pending", torch.zeros(dim + 1), persistent=False)

    @torch.no_grad()
    def add(self, mean: Tensor, num_rows: int) -> None:
        """Remember the mean logits [K] of `num_rows` rows for the next update."""
        self.pending[:-1] += mean * num_rows
        self.pending[-1] += num_rows


@torch.no_grad()
def update_centers(centers: Sequence[Center]) -> None:
    """Move the centers by what was added since the last call; one collective for all of them."""
    if _several_processes():
        packed = torch.cat([center.pending for center in centers])
        dist.all_reduce(packed)
        for center, reduced in zip(centers, packed.split([len(c.pending) for c in centers]), strict=True):
            center.pending.copy_(reduced)
    for center in centers:
        mean = center.pending[:-1] / center.pending[-1]
        center.value.mul_(center.momentum).add_(mean, alpha=1 - center.momentum)
        center.pending.zero_()


@torch.no_grad()
def sinkhorn_probs(logits: Tensor, temp: float, iterations: int = 3) -> Tensor:
    """Balanced assignment of rows [R, K] to prototypes (Sinkhorn-Knopp; not in the paper, see SwAV and DINOv2).

    Rows of all processes are balanced together. Returns probabilities [R, K]; rows sum to 1. R may be 0 on a process.
    """
    scores = logits / temp
    peak = scores.max() if len(scores) else scores.new_tensor(-torch.inf)
    if _several_processes():
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    probs = (scores - peak).exp()
    tiny = torch.finfo(probs.dtype).tiny
    for _ in range(iterations):
        per_prototype = probs.sum(dim=0)
        if _several_processes():
            dist.all_reduce(per_prototype)
        probs = probs / per_prototype.clamp(min=tiny)
        probs = probs / probs.sum(dim=1, keepdim=True).clamp(min=tiny)
    return probs


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
