"""What a transformer block does between its matrix products, on the CPU: checks, then calls of C.

Branches are float32 or bfloat16, all of one type; the stream of tokens, statistics, and gradients
of biases and norms are float32. All tensors are contiguous; `models/fused.py` is the only caller.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from ibot.kernels.library import blocks_function

BEST = 3
"""Widest vectors that are used where the processor has them; 3 is AMX, 2 AVX-512, 1 AVX2."""
LANES = 16
"""Widths are multiples of it."""
MAX_TOKENS = 1024
"""Of an image: what one head needs stays in a cache then."""
_QUERIES = 48
_LEAST_ITEMS = 8192
"""Numbers of a thread for which it pays to be woken."""


class _What(IntEnum):
    ADD_NORM = 0
    NORM_BACKWARD = 1
    SCALE = 2
    GELU = 3
    GELU_BACKWARD = 4
    ATTEND = 5
    ATTEND_BACKWARD = 6


_COUNTS = ("images", "tokens", "heads", "dims")


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_ssize_t) for name in ("rows", "width")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("x", "factor", "branch", "gradient")),
        *((name, ctypes.c_void_p) for name in ("bias", "weight", "norm_bias", "sum", "stats")),
        *((name, ctypes.c_void_p) for name in ("out", "out2", "totals")),
        *((name, ctypes.c_ssize_t) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in ("memory", "norms")),
        ("memory_each", ctypes.c_ssize_t),
    )


class Norm(NamedTuple):
    """A layer norm: weight and bias [D], float32."""

    weight: Tensor
    bias: Tensor
    eps: float


def is_built() -> bool:
    """Whether the kernels are there."""
    return blocks_function() is not None


def add_norm(
    x: Tensor,
    branch: Tensor | None = None,
    bias: Tensor | None = None,
    factor: Tensor | None = None,
    norm: Norm | None = None,
    kind: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum [R, D] = x + factor [R] * (branch + bias); its norm in `kind`; and mean and 1 / deviation
    of the rows [2, R]. Without branch the sum is x, without norm there is none.
    """
    total = x if branch is None else torch.empty_like(x)
    out = x.new_empty(x.shape if norm else 0, dtype=kind)
    stats = x.new_empty((2, len(x)) if norm else 0)
    half = kind if branch is None else branch.dtype
    job = _job(x, x=x, branch=branch, bias=bias, factor=factor, sum=total, out=out, stats=stats)
    if norm is not None:
        job.weight, job.norm_bias = norm.weight.data_ptr(), norm.bias.data_ptr()
        job.eps = norm.eps
    _run(_What.ADD_NORM, job, half, len(x), x.numel())
    return total, out, stats


def norm_backward(
    gradient: Tensor,
    inside: Tensor,
    stats: Tensor,
    norm: Norm,
    behind: Tensor,
    factor: Tensor | None = None,
    branch: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backward of `add_norm`, given the gradients of the norm's output and of the sum (`behind`).

    Returns the gradient of the sum in all, the norm's output anew, the gradient of the branch if
    wanted (else empty), and sums over rows [3, D]: gradients of weight, bias and branch's bias.
    """
    total, out = torch.empty_like(inside), torch.empty_like(gradient)
    of_branch = torch.empty_like(gradient) if branch else gradient.new_empty(0)
    job = _job(
        inside,
        x=behind,
        branch=inside,
        gradient=gradient,
        stats=stats,
        factor=factor,
        sum=total,
        out=out,
        out2=of_branch if branch else None,
        weight=norm.weight,
        norm_bias=norm.bias,
    )
    sums = _run(_What.NORM_BACKWARD, job, gradient.dtype, len(inside), inside.numel(), 3)
    return total, out, of_branch, sums.view(3, -1)


def scale(x: Tensor, factor: Tensor | None, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factor [R] * x [R, D] in `kind`, and its sums over rows [D]."""
    same = factor is None and kind == x.dtype
    out = x if same else torch.empty_like(x, dtype=kind)
    job = _job(x, x=x, factor=factor, out=None if same else out)
    return out, _run(_What.SCALE, job, kind, len(x), x.numel(), 1)


def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU of x [R, H] + bias [H], as `torch.nn.functional.gelu` to rounding."""
    out = torch.empty_like(x)
    _run(_What.GELU, _job(x, branch=x, bias=bias, out=out), x.dtype, len(x), 8 * x.numel())
    return out


def gelu_backward_(gradient: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Makes of the gradient of `gelu`'s output that of its input, in place.

    Returns the output anew, and the sums of that gradient over rows [H].
    """
    out = torch.empty_like(x)
    job = _job(x, branch=x, bias=bias, gradient=gradient, out=out, out2=gradient)
    return out, _run(_What.GELU_BACKWARD, job, x.dtype, len(x), 8 * x.numel(), 1)


def attend(qkv: Tensor, bias: Tensor, tokens: int, heads: int) -> tuple[Tensor, Tensor]:
    """Attention of images of so many tokens: qkv [R, 3 D] without their bias [3 D] -> [R, D].

    And the logarithms of the softmaxes' denominators [R / tokens, heads, tokens].
    """
    rows, width = len(qkv), qkv.shape[1] // 3
    out, norms = qkv.new_empty(rows, width), qkv.new_empty(rows * heads, dtype=torch.float32)
    job = _job(qkv, branch=qkv, bias=bias, out=out, norms=norms)
    dims, padded = width // heads, -(-tokens // 32) * 32
    memory = 3 * tokens * dims + (dims + _QUERIES) * padded + _QUERIES * dims
    _attention(_What.ATTEND, job, (rows // tokens, tokens, heads, dims), memory, qkv, 0)
    return out, norms


def attend_backward(
    gradient: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, norms: Tensor, tokens: int, heads: int
) -> tuple[Tensor, Tensor]:
    """Backward of `attend`: the gradient of qkv [R, 3 D], and its sums over rows [3 D]."""
    result, width = torch.empty_like(qkv), qkv.shape[1] // 3
    job = _job(qkv, branch=qkv, bias=bias, gradient=gradient, out=out, out2=result, norms=norms)
    dims, padded = width // heads, -(-tokens // 32) * 32
    memory = 7 * padded * dims + 2 * (dims + 64) * padded + 64 * dims
    counts = (len(qkv) // tokens, tokens, heads, dims)
    return result, _attention(_What.ATTEND_BACKWARD, job, counts, memory, qkv, 3 * width)


def _job(shaped: Tensor, **tensors: Tensor | None) -> _Job:
    job = _Job(rows=len(shaped), width=shaped.shape[1])
    for name, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(job, name, tensor.data_ptr())
    return job


def _attention(
    what: _What, job: _Job, counts: tuple[int, ...], memory: int, qkv: Tensor, sums: int
) -> Tensor:
    for name, count in zip(_COUNTS, counts, strict=True):
        setattr(job, name, count)
    items = counts[0] * counts[2]
    threads = max(1, min(torch.get_num_threads(), items))
    # Rounded up: no line of the cache belongs to two threads.
    job.memory_each = -(-memory // LANES) * LANES
    scratch = qkv.new_empty(threads * job.memory_each, dtype=torch.float32)
    totals = qkv.new_zeros(threads, sums, dtype=torch.float32)
    job.memory, job.totals = scratch.data_ptr(), totals.data_ptr()
    _call(what, job, qkv.dtype, threads, items, sums)
    return totals[0] if threads == 1 else totals.sum(dim=0)


def _run(what: _What, job: _Job, kind: torch.dtype, items: int, work: int, sums: int = 0) -> Tensor:
    """Calls with as many threads as pay; returns sums over rows [sums * width]."""
    threads = max(1, min(torch.get_num_threads(), items, work // _LEAST_ITEMS))
    # Whatever torch's default type and device are.
    totals = torch.zeros(threads, sums * job.width, dtype=torch.float32, device="cpu")
    job.totals = totals.data_ptr()
    _call(what, job, kind, threads, items, sums * job.width)
    return totals[0] if threads == 1 else totals.sum(dim=0)


def _call(what: _What, job: _Job, kind: torch.dtype, threads: int, items: int, sums: int) -> None:
    function = blocks_function()
    if function is None:
        raise RuntimeError("the kernels were not built")
    half = int(kind is torch.bfloat16)
    function(what, half, threads, BEST, items, sums, ctypes.byref(job))
