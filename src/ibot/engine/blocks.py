"""How the blocks of a network run in a training step: recomputed in the backward pass, compiled.

In this order, as a compiled block must see what it recomputes; sharding comes after both. Each is
done in place, on the `forward` of the block itself: parameters keep their names, a copy of the
network is as plain as before, and so is the network in eval mode, where images have any size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from ibot.config.schema import SystemConfig
from ibot.kernels.choice import chosen
from ibot.kernels.library import triton_lacks
from ibot.method.model import StudentTeacher
from ibot.models import fused
from ibot.models.layers import Block

aten = torch.ops.aten
EXPENSIVE = frozenset(
    [
        *(aten.mm.default, aten.addmm.default, aten.bmm.default),
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    ]
)
"""What selective recomputation keeps: products and attention. Norms, activations, gains and sums
are made again: they take little time, and a third of the memory."""
GRAPHS = 64
"""Shapes for which a block may be compiled; all blocks count together, and a Swin has two kinds of
blocks at four sizes for two sizes of views and two networks."""


def prepare_blocks(
    model: StudentTeacher, config: SystemConfig, device: torch.device, *, backend: str = "inductor"
) -> None:
    """Make the blocks of student and teacher recompute and compile as `config` says, in place.

    Args:
        model: on whatever device; before it is sharded.
        config: `compile` and `checkpoint_activations` are read.
        device: where it will run.
        backend: what torch.compile makes of a block.
    """
    compiled = _compiles(config, device)
    if compiled:
        # Beyond torch's limit of 8 blocks would silently run as they were written.
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, GRAPHS)  # pyright: ignore
    for network in (model.student, model.teacher):
        # The teacher keeps nothing for a backward pass.
        recompute = "off" if network is model.teacher else config.checkpoint_activations
        for block in network.backbone.blocks_for_sharding():
            eager = plain = block.forward
            if recompute != "off":
                eager = _recomputed(plain, selective=recompute == "selective")
            run = torch.compile(eager, dynamic=False, backend=backend) if compiled else eager
            if run is not plain:
                block.forward = TrainingForward(plain, eager, run)


class TrainingForward:
    """The forward pass of a block while it trains; in eval mode the plain one."""

    def __init__(
        self,
        plain: Callable[..., Tensor],
        eager: Callable[..., Tensor],
        run: Callable[..., Tensor],
    ) -> None:
        """plain: the block's own method. eager: where it trains. run: the same, compiled or not."""
        self.plain, self.eager, self.run = plain, eager, run

    def __call__(
        self, x: Tensor, rows: Tensor | None = None, drop: Tensor | None = None, **others: Any
    ) -> Tensor:
        """As the block's own; numbers of rows are padded for a compiled one, so that they recur."""
        block: Any = self.plain.__self__  # pyright: ignore[reportFunctionMemberAccess]
        given = {"rows": rows, "drop": drop, **others}
        given = {name: value for name, value in given.items() if value is not None}
        if not block.training:
            return self.plain(x, **given)
        # A block that draws for itself would draw otherwise when compiled.
        run = self.eager if drop is None and block.drop_path.rate else self.run
        if rows is None or run is self.eager:
            return run(x, **given)
        given["rows"] = F.pad(rows, (0, recurring(len(rows)) - len(rows)))
        return run(x, **given)[: len(rows)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Tensor]:
        return copy.deepcopy(self.plain, memo)


def recurring(count: int) -> int:
    """The next larger one of few numbers: four in each doubling, multiples of 64.

    Every number of masked patches would be a program of its own; so there are some five, for an
    eighth more rows in one block.
    """
    step = max(64, 1 << max(0, count.bit_length() - 3))
    return -(-count // step) * step


def _compiles(config: SystemConfig, device: torch.device) -> bool:
    """Whether blocks are compiled: on a GPU unless told otherwise, on a CPU when told so."""
    if config.compile == "off" or (config.compile == "auto" and device.type != "cuda"):
        return False
    lacks = triton_lacks() if device.type == "cuda" else ""
    return chosen("compiled blocks", "torch.compile", lacks=lacks)


def _recomputed(forward: Callable[..., Tensor], selective: bool) -> Callable[..., Tensor]:
    """`forward`, of which the backward pass makes again what was not kept.

    The same numbers: whatever a block draws is drawn alike.
    """
    if not selective:
        return partial(checkpoint, forward, use_reentrant=False)  # pyright: ignore[reportReturnType]
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    run: Any = partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)
    block: Any = forward.__self__  # pyright: ignore[reportFunctionMemberAccess]
    if not isinstance(block, Block):
        return run

    def unless_fused(x: Tensor, *others: Any, **named: Any) -> Tensor:
        # A block in C keeps no more than that by itself: its products would be made twice in vain.
        return (forward if fused.takes(block, x) else run)(x, *others, **named)

    return unless_fused


def _policy(_context: object, operator: object, *_: object, **__: object) -> CheckpointPolicy:
    kept = operator in EXPENSIVE
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
