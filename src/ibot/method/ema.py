"""The teacher follows the student (paper section 2.2, algorithm 1; spec 6.8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def update_teacher(pairs: Sequence[tuple[Tensor, Tensor]], momentum: float) -> None:
    """In place for pairs (teacher, student): momentum * teacher + (1 - momentum) * student."""
    teacher, student = [t for t, _ in pairs], [s for _, s in pairs]
    torch._foreach_mul_(teacher, momentum)
    torch._foreach_add_(teacher, student, alpha=1 - momentum)
