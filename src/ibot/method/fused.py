"""The losses of `losses.py` joined with the last layer: logits exist for a few rows at a time.

A chunk of rows goes all the way at once: teacher logits, their probabilities, student scores, the
losses, the gradient by the scores, and its products with the rows and the prototypes. So nothing of
size rows x prototypes is kept for the backward pass, which only scales what is there (spec 5.7, I6,
I7). Logits and losses are float32 or wider, as in the plain form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ibot.kernels import cross_entropy
from ibot.kernels.choice import chosen
from ibot.kernels.library import triton_lacks
from ibot.method.memory import CHUNK
from ibot.method.observed import TargetSums
from ibot.method.targets import Targets
from ibot.models.head import ProjectionHead, Scored, at_least_float32


class RowFunctions(NamedTuple):
    """What is done to the rows of a chunk, in place (`kernels/cross_entropy.py`)."""

    softmax: Callable[[Tensor, Tensor, float], None]
    cross_entropy: Callable[[Tensor, Tensor, Tensor, float, bool], Tensor]


PLAIN = RowFunctions(cross_entropy.softmax_rows, cross_entropy.cross_entropy_rows)


def fusing(head: ProjectionHead, like: Tensor) -> RowFunctions | None:
    """How the losses of logits of this head run; None: by the plain form.

    `like`: a tensor on the device, of the type of the weights.
    """
    unfit = "" if head.normalized else "the head has no bottleneck"
    if like.device.type != "cuda":
        return PLAIN if chosen("losses", "in chunks", unfit=unfit) else None
    if like.dtype is torch.float64:
        unfit = "float64"
    runs = chosen("losses", "Triton", lacks=triton_lacks(), unfit=unfit)
    return triton_rows() if runs else None


def triton_rows() -> RowFunctions:
    """The kernels of `kernels/cross_entropy_triton.py`, for float32."""
    from ibot.kernels import cross_entropy_triton

    return RowFunctions(cross_entropy_triton.softmax_rows, cross_entropy_triton.cross_entropy_rows)


def fused_cls_loss(
    student: Scored,
    teacher: Targets,
    student_temp: float,
    *,
    seen: TargetSums | None = None,
    functions: RowFunctions = PLAIN,
    chunk: int = 0,
) -> Tensor:
    """`cls_loss` of student rows [V, B, d] and targets of [G, B, ...]; a scalar in nats.

    `seen` gets the target probabilities. `chunk`: scores at a time; 0: what suits the device.
    """
    num_views, batch = student.rows.shape[:2]
    pairs = len(teacher.rows) * (num_views - 1) * batch
    scale = student.weight.new_full((batch,), 1 / pairs if pairs else float("nan"))
    how = _How(student_temp, True, functions, chunk)
    return _FusedCrossEntropy.apply(student.rows, student.weight, scale, teacher, how, seen)  # pyright: ignore[reportReturnType]


def fused_patch_loss(
    student: Scored,
    teacher: Targets,
    weight: Tensor,
    num_views: int,
    student_temp: float,
    *,
    seen: TargetSums | None = None,
    functions: RowFunctions = PLAIN,
    chunk: int = 0,
) -> Tensor:
    """`patch_loss` of student rows [M, d] and targets of [M, ...]; a scalar in nats.

    `seen` and `chunk` as in `fused_cls_loss`.
    """
    scale = weight.to(student.weight.dtype) / num_views
    how = _How(student_temp, False, functions, chunk)
    rows = student.rows[None]
    teacher = replace(teacher, source=_stacked(teacher.source))
    return _FusedCrossEntropy.apply(rows, student.weight, scale, teacher, how, seen)  # pyright: ignore[reportReturnType]


def _stacked(source: Tensor | Scored) -> Tensor | Scored:
    """The same as rows of one view."""
    return source._replace(rows=source.rows[None]) if isinstance(source, Scored) else source[None]


class _How(NamedTuple):
    temp: float
    own: bool
    functions: RowFunctions
    chunk: int


class _FusedCrossEntropy(torch.autograd.Function):
    """Losses of student rows [V, R, d] summed, and already their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        scale: Tensor,
        teacher: Targets,
        how: _How,
        seen: TargetSums | None,
    ) -> Tensor:
        by_rows, by_weight = ctx.needs_input_grad[:2]
        rows_gradient = torch.empty_like(at_least_float32(rows)) if by_rows else None
        weight_gradient = torch.empty_like(weight) if by_weight else None
        losses = []
        with torch.autocast(rows.device.type, enabled=False):
            for part, z, scores, probs in _chunks(rows, weight, teacher, how):
                if seen is not None:
                    seen.add(probs, part)
                losses.append(
                    how.functions.cross_entropy(scores, probs, scale[part], how.temp, how.own).sum()
                )
                flat = scores.flatten(0, 1)
                if rows_gradient is not None:
                    rows_gradient[:, part] = (flat @ weight).view_as(rows_gradient[:, part])
                if weight_gradient is not None:
                    weight_gradient.addmm_(flat.T, z, beta=len(losses) > 1)
        if weight_gradient is not None and not losses:
            weight_gradient.zero_()
        ctx.save_for_backward(rows_gradient, weight_gradient)
        ctx.dtype = rows.dtype
        return torch.stack(losses).sum() if losses else scale.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # In place, as prototypes are many; a second pass through the same graph is an error then.
        by_rows, by_weight = ctx.saved_tensors
        return (
            None if by_rows is None else by_rows.mul_(gradient).to(ctx.dtype),
            None if by_weight is None else by_weight.mul_(gradient),
            *[None] * 4,
        )


def _chunks(
    rows: Tensor, weight: Tensor, teacher: Targets, how: _How
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Parts of R: the slice, student rows [V * r, d], scores [V, r, K], target probabilities [G,
    r, K]. The tensors are overwritten by the next part's.
    """
    num_views, total = rows.shape[:2]
    if not total:
        return
    size, count = len(weight), num_views * total * len(weight)
    limit = how.chunk or CHUNK[rows.device.type == "cuda"]
    longest = -(-total // min(total, -(-count // limit)))
    ours, theirs = (
        weight.new_empty(views * longest * size) for views in (num_views, len(teacher.rows))
    )
    for start in range(0, total, longest):
        part = slice(start, min(start + longest, total))
        probs = teacher.part(part, theirs, how.functions.softmax)
        z = at_least_float32(rows[:, part]).flatten(0, 1)
        scores = torch.mm(z, weight.T, out=ours[: len(z) * size].view(-1, size))
        yield part, z, scores.view(num_views, -1, size), probs
