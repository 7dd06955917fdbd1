"""Values along a training: half a cosine, a straight ramp."""

from __future__ import annotations

import math


def cosine(step: int, base: float, final: float, total: int, warmup: int = 0) -> float:
    """Linear from 0 to `base` over `warmup` steps, then half a cosine towards `final`, which is
    never reached.

    The peak occurs twice, at steps warmup - 1 and warmup: both ends of the ramp are included (spec
    6.1).
    """
    if step < warmup:
        return base * step / (warmup - 1) if warmup > 1 else 0.0
    return final + 0.5 * (base - final) * (
        1 + math.cos(math.pi * (step - warmup) / (total - warmup))
    )


def ramp(position: int, start: float, end: float, length: int) -> float:
    """Linear from `start` to `end` over `length` positions, both ends included; `end` afterwards
    (spec 5.4).
    """
    if position >= length:
        return end
    return start + (end - start) * position / (length - 1) if length > 1 else start
