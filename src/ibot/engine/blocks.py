"""How the blocks of a network run in a training step: recomputed in the backward pass, compiled.

In this order, as a compiled block may then choose for itself what it recomputes; sharding comes
after both. Each is done in place, on the `forward` of the block itself: parameters keep their names,
a copy of the network is as plain as before, and so is the network in eval mode, where images have
any size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from ibot.config.schema import SystemConfig
from ibot.kernels.choice import chosen

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
are made again: they take little time, and half of the memory."""
GRAPHS = 64
"""Shapes for which a block may be compiled; all blocks count together, and a Swin has two kinds of
blocks at four sizes for two sizes of views and two networks."""


def prepare_blocks(
    blocks: Iterable[nn.Module],
    config: SystemConfig,
    device: torch.device,
    *,
    trained: bool,
    backend: str = "inductor",
) -> None:
    """Make blocks recompute and compile as `config` says, in place.

    Args:
        blocks: of a backbone, `Backbone.blocks_for_sharding`.
        config: `compile` and `checkpoint_activations` are read.
        device: where they run.
        trained: whether gradients flow through them: otherwise nothing is kept for a backward pass.
        backend: what torch.compile makes of a block.
    """
    recompute = config.checkpoint_activations if trained else "off"
    compiled = _compiles(config, device)
    if recompute == "off" and not compiled:
        return
    if compiled:
        # Beyond torch's limit of 8 blocks would silently run as they were written.
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, GRAPHS)  # pyright: ignore
    for block in blocks:
        run = plain = block.forward
        if recompute != "off":
            run = _recomputed(plain, selective=recompute == "selective")
        if compiled:
            run = torch.compile(run, dynamic=False, backend=backend)
        block.forward = TrainingForward(plain, run, recurring=compiled)


class TrainingForward:
    """The forward pass of a block while it trains; in eval mode the plain one."""

    def __init__(
        self, plain: Callable[..., Tensor], run: Callable[..., Tensor], recurring: bool
    ) -> None:
        """plain: the block's own method. recurring: numbers of rows are padded, so that they recur.
        """
        self.plain, self.run, self.recurring = plain, run, recurring

    def __call__(self, *args: Any, rows: Tensor | None = None, **kwargs: Any) -> Tensor:
        """As the block's own; of padded rows the result is cut off again."""
        block: nn.Module = self.plain.__self__  # pyright: ignore[reportFunctionMemberAccess]
        run = self.run if block.training else self.plain
        if rows is None:
            return run(*args, **kwargs)
        if not (self.recurring and block.training):
            return run(*args, rows=rows, **kwargs)
        padded = F.pad(rows, (0, recurring(len(rows)) - len(rows)))
        return run(*args, rows=padded, **kwargs)[: len(rows)]

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
    lacks = ""
    if device.type == "cuda" and find_spec("triton") is None:
        lacks = "Triton is not installed"
    return chosen("compiled blocks", "torch.compile", lacks=lacks)


def _recomputed(forward: Callable[..., Tensor], selective: bool) -> Callable[..., Tensor]:
    """`forward`, of which the backward pass makes again what was not kept.

    The same numbers: whatever a block draws is drawn alike.
    """
    contexts = noop_context_fn
    if selective:
        contexts = partial(create_selective_checkpoint_contexts, _policy)

    def run(*args: Any, **kwargs: Any) -> Tensor:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _policy(_context: object, operator: object, *_: object, **__: object) -> CheckpointPolicy:
    kept = operator in EXPENSIVE
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
