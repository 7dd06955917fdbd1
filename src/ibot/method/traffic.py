"""Bytes that a training step moves beside its products, by formula: what slows small networks."""

from __future__ import annotations

from ibot.config.schema import Config
from ibot.method.memory import HALF, SINGLE, Parameters
from ibot.models.flops import Size, token_counts

PASSES = 21
"""Times that a block with fused attention and norms reads or writes a map of tokens, forward,
besides the operands of its products; twice that backward."""
OF_A_WEIGHT = 12 * SINGLE
"""Bytes moved for each parameter by clipping, optimizer and moving average."""


def image_bytes(config: Config, *, half: bool) -> float:
    """Of one image in the blocks of student and teacher."""
    augment = config.augment
    seen = 4 * augment.num_global * _tokens(config, augment.global_size)  # teacher once, student 3
    seen += 3 * augment.num_local * _tokens(config, augment.local_size)
    return PASSES * (HALF if half else SINGLE) * seen


def update_bytes(config: Config, shards: int = 1) -> float:
    """Of an optimizer step, whatever the batch."""
    return OF_A_WEIGHT * Parameters.of(config).student / shards


def _tokens(config: Config, size: Size) -> float:
    """Numbers in the maps of all blocks for one view."""
    model, counts = config.model, token_counts(config.model, size)
    if model.kind == "vit":
        return model.depth * counts[0] * model.width
    stages = zip(model.depths, counts, strict=True)
    return sum(depth * count * model.width * 2**k for k, (depth, count) in enumerate(stages))


def exchanged(config: Config, *, devices: int, sharded: bool) -> float:
    """Bytes that each of several devices sends for a step.

    A sum over all devices passes a ring twice. Sharded, weights of the student are gathered for
    forward and backward, those of the teacher once, and the gradients' sums are scattered.
    """
    count = Parameters.of(config)
    passes = 2 * count.trained
    if sharded:
        passes = 2 * count.student + count.teacher + count.trained
    return SINGLE * passes * (devices - 1) / devices
