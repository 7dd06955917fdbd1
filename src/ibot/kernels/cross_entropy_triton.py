"""`cross_entropy.py` in Triton: one program a row, which reads it twice and writes it once.

Imported where Triton is there. Float32 alone: what is narrower was raised before the temperature,
and what is wider is for tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_BLOCK = 8192
"""Prototypes that a program holds at once; longer rows are read in parts."""


@triton.jit
def _merge(top, total, x):
    """The largest entry and the sum of exp(entry - largest), with those of `x` added."""
    new = tl.maximum(top, tl.max(x, axis=0))
    finite = tl.where(new == -float("inf"), 0.0, new)  # a block of nothing but -inf adds nothing
    return new, total * tl.exp(top - finite) + tl.sum(tl.exp(x - finite), axis=0)


@triton.jit
def _softmax_kernel(logits, center, temp, size, block: tl.constexpr):
    row = logits + tl.program_id(0).to(tl.int64) * size
    top, total = -float("inf"), 0.0
    for start in range(0, size, block):
        k = start + tl.arange(0, block)
        x = tl.load(row + k, mask=k < size, other=-float("inf"))
        x = (x - tl.load(center + k, mask=k < size, other=0.0)) / temp
        top, total = _merge(top, total, x)
    for start in range(0, size, block):
        k = start + tl.arange(0, block)
        x = tl.load(row + k, mask=k < size, other=-float("inf"))
        x = (x - tl.load(center + k, mask=k < size, other=0.0)) / temp
        tl.store(row + k, tl.exp(x - top) / total, mask=k < size)


@triton.jit
def _targets(probs, k, size, num_rows, view, num_teachers: tl.constexpr, own: tl.constexpr):
    """Sum of the targets of a student view at prototypes `k`; `probs` is the first view's row."""
    q = tl.zeros_like(k).to(tl.float32)
    for t in tl.static_range(num_teachers):
        wanted = k < size
        if own:
            wanted = wanted & (view != t)
        q += tl.load(probs + t * num_rows * size + k, mask=wanted, other=0.0)
    return q


@triton.jit(do_not_specialize=["num_rows"])  # another one at each step
def _cross_entropy_kernel(
    scores,
    probs,
    scale,
    losses,
    temp,
    size,
    num_rows,
    num_teachers: tl.constexpr,
    own: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    view, place = program // num_rows, program % num_rows
    scores += program * size
    probs += place * size
    top, total, mass, agreement = -float("inf"), 0.0, 0.0, 0.0
    for start in range(0, size, block):
        k = start + tl.arange(0, block)
        s = tl.load(scores + k, mask=k < size, other=-float("inf")) / temp
        q = _targets(probs, k, size, num_rows, view, num_teachers, own)
        top, total = _merge(top, total, s)
        mass += tl.sum(q, axis=0)
        agreement += tl.sum(q * tl.where(k < size, s, 0.0), axis=0)
    log_norm = top + tl.log(total)
    weight = tl.load(scale + place)
    tl.store(losses + program, (mass * log_norm - agreement) * weight)
    for start in range(0, size, block):
        k = start + tl.arange(0, block)
        s = tl.load(scores + k, mask=k < size, other=-float("inf")) / temp
        q = _targets(probs, k, size, num_rows, view, num_teachers, own)
        gradient = (mass * tl.exp(s - log_norm) - q) * (weight / temp)
        tl.store(scores + k, gradient, mask=k < size)


def softmax_rows(logits: Tensor, center: Tensor, temp: float) -> None:
    """As in `cross_entropy.py`."""
    num, size = logits.shape
    if num:
        _softmax_kernel[(num,)](_whole(logits), center, temp, size, **_launch(size))


def cross_entropy_rows(
    scores: Tensor, probs: Tensor, scale: Tensor, temp: float, own: bool
) -> Tensor:
    """As in `cross_entropy.py`."""
    num_views, num_rows, size = scores.shape
    losses = scores.new_empty(num_views, num_rows)
    if len(losses.flatten()):
        _cross_entropy_kernel[(num_views * num_rows,)](
            _whole(scores),
            _whole(probs),
            scale,
            losses,
            temp,
            size,
            num_rows,
            num_teachers=len(probs),
            own=own,
            **_launch(size),
        )
    return losses


def _launch(size: int) -> dict[str, int]:
    """Block and warps for rows of `size` prototypes."""
    block = min(triton.next_power_of_2(size), LARGEST_BLOCK)
    return {"block": block, "num_warps": max(1, min(8, block // 512))}


def _whole(tensor: Tensor) -> Tensor:
    assert tensor.is_contiguous() and tensor.dtype is torch.float32
    return tensor
