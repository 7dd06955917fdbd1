"""What one process would see of a step that several share: all rows, with their gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ibot.system.distributed import several_processes


def gather_rows(rows: Tensor) -> Tensor:
    """Rows [G, B, D] of W processes as the [G, B * W, D] that one process would have.

    Every process is to compute the same loss of the result. Its gradient at the own rows is
    multiplied by W, as the gradients of the parameters are averaged over the processes afterwards.
    """
    return _Gather.apply(rows) if several_processes() else rows  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [
            torch.empty_like(rows, memory_format=torch.contiguous_format)
            for _ in range(dist.get_world_size())
        ]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=2).flatten(1, 2)  # of W images in turn each process has one

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        world_size = dist.get_world_size()
        return grad[:, dist.get_rank() :: world_size] * world_size
