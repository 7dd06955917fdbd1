"""Targets without collapse: running centers (algorithm 1, spec 5.5) and Sinkhorn-Knopp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ibot.models.head import at_least_float32
from ibot.system.distributed import largest_in_place, sum_in_place, sum_over_processes


class Center(nn.Module):
    """Running mean of the teacher's raw logits over all rows, micro-batches and processes."""

    value: Tensor
    pending: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))
        # Sum of logits and number of rows since the last update, to be reduced at once.
        self.register_buffer("pending", torch.zeros(dim + 1), persistent=False)

    @torch.no_grad()
    def add(self, mean: Tensor, num_rows: int) -> None:
        """Remember the mean logits [K] of `num_rows` rows for the next update."""
        self.pending[:-1] += mean * num_rows
        self.pending[-1] += num_rows


@torch.no_grad()
def update_centers(centers: Sequence[Center]) -> None:
    """Move the centers by what was added since the last call; one collective for all of them."""
    pending = sum_over_processes([center.pending for center in centers])
    for center, summed in zip(centers, pending, strict=True):
        total, num_rows = summed[:-1], summed[-1]
        # Without rows there is no mean: the center stays.
        mean = torch.where(num_rows > 0, total / num_rows, center.value)
        center.value.mul_(center.momentum).add_(mean, alpha=1 - center.momentum)
        center.pending.zero_()


@torch.no_grad()
def sinkhorn_probs(logits: Tensor, temp: float, iterations: int = 3) -> Tensor:
    """Balanced assignment of rows to prototypes, as in SwAV and DINOv2: Sinkhorn-Knopp.

    Rows of all processes are balanced together. Every row sums to 1, whatever the logits:
    prototypes and then rows are taken relative to their largest entry, so that every column and
    every row of the kernel holds a 1 and no sum can vanish or overflow, however far rows lie apart.

    Args:
        logits: [R, K], any float type; R may be 0 on a process. A prototype at -inf gets nothing of
            its row; a row of nothing else has no preference. NaN and +inf make everything NaN,
            which the loss shows.
        temp: divides the logits.
        iterations: of balancing prototypes, then rows.

    Returns:
        Probabilities [R, K], float32 or wider.
    """
    logits = at_least_float32(logits)
    scores = (logits - _highest(logits).clamp_(min=torch.finfo(logits.dtype).min)).div_(temp)
    top = scores.amax(dim=1, keepdim=True)
    empty = top == -torch.inf
    scores.masked_fill_(empty, 0.0)
    kernel = (scores - top.masked_fill(empty, 0.0)).exp_()
    row_weight = top.exp()[:, 0]
    weight = scores.new_ones(scores.shape[1])
    # Half precision in these products would be an error of a per cent in the targets.
    with torch.autocast(kernel.device.type, enabled=False):
        for _ in range(min(iterations, BLOCK)):
            per_prototype = sum_in_place(row_weight @ kernel)
            per_prototype.masked_fill_(per_prototype == 0, 1.0)  # at -inf in all rows
            # Only ratios matter: relative to the largest sum the weights stay within range.
            weight = per_prototype.amax() / per_prototype
            row_weight = (kernel @ weight).reciprocal_()
    if iterations <= BLOCK:
        return kernel.mul_(weight).mul_(row_weight[:, None])
    return sinkhorn_probs((scores + weight.log()).log_softmax(dim=1), 1.0, iterations - BLOCK)


BLOCK = 3
"""Iterations on one kernel. In each the weights of prototypes and rows drift apart by R K times at
most: within the range of float32 for three, not for any number."""


def _highest(rows: Tensor) -> Tensor:
    """Largest entries [K] over the rows [R, K] of all processes."""
    highest = rows.amax(dim=0) if len(rows) else rows.new_full(rows.shape[1:], -torch.inf)
    return largest_in_place(highest)
