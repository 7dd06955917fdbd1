"""A transformer block as one function: matrix products by torch, all between them in C.

What `models/layers.py: Block` computes, to rounding, for blocks on a CPU. Kept for the backward
pass are the tokens before and behind attention, queries, keys and values, their mix, and what the
MLP's first layer gives: norms, GELU and attention's probabilities are made anew. Products run in
float32, or in bfloat16 under autocast; the stream of tokens and every sum are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ibot.kernels import blocks as c
from ibot.kernels.choice import chosen

if TYPE_CHECKING:
    from ibot.models.layers import Block


class Weights(NamedTuple):
    """Of a block, in the order of its gradients."""

    norm1_weight: Tensor
    norm1_bias: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


class Shape(NamedTuple):
    """What is no tensor."""

    images: int
    tokens: int
    heads: int
    eps: tuple[float, float]
    kind: torch.dtype
    """Type of the products."""


class Kept(NamedTuple):
    """For the backward pass; rows are tokens."""

    x: Tensor
    stats1: Tensor
    qkv: Tensor
    mixed: Tensor
    norms: Tensor
    middle: Tensor
    stats2: Tensor
    hidden: Tensor


def takes(block: Block, x: Tensor) -> bool:
    """Whether the block runs fused for tokens x [B, T, D]."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    lacks = "" if c.is_built() else "its C was not compiled here, or the processor has no AVX2"
    return chosen("blocks", "C", lacks=lacks, unfit=_unfit(block, x))


def _unfit(block: Block, x: Tensor) -> str:
    """Why not."""
    attn, mlp = block.attn, block.mlp
    if block.gamma_1 is not None:
        return "layer scale"
    if mlp.act is not F.gelu:
        return "another activation than GELU"
    norms, linears = (block.norm1, block.norm2), (attn.qkv, attn.proj, mlp.fc1, mlp.fc2)
    if (
        _differs(mlp, type(mlp))
        or any(_differs(norm, nn.LayerNorm) for norm in norms)
        or any(_differs(linear, nn.Linear) for linear in linears)
    ):
        return "layers of another kind, or with hooks"
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return "autocast to another type than bfloat16"
    weights = _weights(block)  # C trusts every one of them
    if not all(_is_plain(tensor) for tensor in (x, *weights)):
        return "tensors of another class, type or device than float32 of the CPU"
    if not all(weight.is_contiguous() for weight in weights):
        return "weights that do not lie in order"
    if any(width % c.LANES for width in (x.shape[-1] // attn.heads, mlp.fc1.out_features)):
        return f"widths that are no multiple of {c.LANES}"
    if not 0 < x.shape[1] <= c.MAX_TOKENS or not len(x):
        return f"more than {c.MAX_TOKENS} tokens, or none"
    return ""


def _differs(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of it is more, or other, than what its class computes."""
    hooks = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    return type(module) is not kind or bool(hooks) or "forward" in vars(module)


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (nn.Parameter, Tensor)
        and tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
    )


def forward(block: Block, x: Tensor, rows: Tensor | None, drop: Tensor | None) -> Tensor:
    """`Block.forward`: tokens [B, T, D] -> the same, or with `rows` int64 [R] those alone [R, D].

    drop: [2, B], or None: the block's `DropPath` draws.
    """
    images, tokens, width = x.shape
    low = torch.is_autocast_enabled("cpu")
    kind = torch.bfloat16 if low else torch.float32
    shape = Shape(images, tokens, block.attn.heads, (block.norm1.eps, block.norm2.eps), kind)
    weights = _weights(block)
    first, second = _factors(block, x, rows, drop)
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in weights)):
            out = _Fused.apply(x, rows, first, second, shape, *weights)
        else:
            out, _ = _forward(x, rows, first, second, shape, weights)
    return out.view(images, tokens, width) if rows is None else out


def _weights(block: Block) -> Weights:
    norm1, attn, norm2, mlp = block.norm1, block.attn, block.norm2, block.mlp
    return Weights(
        norm1.weight,
        norm1.bias,
        attn.qkv.weight,
        attn.qkv.bias,
        attn.proj.weight,
        attn.proj.bias,
        norm2.weight,
        norm2.bias,
        mlp.fc1.weight,
        mlp.fc1.bias,
        mlp.fc2.weight,
        mlp.fc2.bias,
    )


def _factors(
    block: Block, x: Tensor, rows: Tensor | None, drop: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Of the two branches for each row that is computed; None: 1."""
    images, tokens = x.shape[:2]
    if drop is None:
        if not block.training or block.drop_path.rate == 0.0:
            return None, None
        ones = x.new_ones(images)
        drop = torch.stack([block.drop_path(ones, images) for _ in range(2)])
    sample = torch.arange(images * tokens) if rows is None else rows
    first, second = drop.float()[:, sample // tokens].contiguous().unbind()
    return first, second


def _forward(
    x: Tensor,
    rows: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    shape: Shape,
    weights: Weights,
) -> tuple[Tensor, Kept]:
    w, kind = weights, shape.kind
    x = x.contiguous().view(-1, x.shape[-1])
    norm1, norm2 = _norms(w, shape)
    _, normed, stats1 = c.add_norm(x, norm=norm1, kind=kind)
    qkv = normed @ w.qkv.to(kind).t()
    mixed, norms = c.attend(qkv, w.qkv_bias, shape.tokens, shape.heads)
    chosen_x = x
    if rows is not None:
        chosen_x, mixed = x[rows], mixed[rows]
    branch = mixed @ w.proj.to(kind).t()
    middle, normed, stats2 = c.add_norm(chosen_x, branch, w.proj_bias, first, norm2, kind)
    hidden = normed @ w.fc1.to(kind).t()
    branch = c.gelu(hidden, w.fc1_bias) @ w.fc2.to(kind).t()
    out, _, _ = c.add_norm(middle, branch, w.fc2_bias, second)
    return out, Kept(x, stats1, qkv, mixed, norms, middle, stats2, hidden)


def _norms(w: Weights, shape: Shape) -> tuple[c.Norm, c.Norm]:
    return (
        c.Norm(w.norm1_weight, w.norm1_bias, shape.eps[0]),
        c.Norm(w.norm2_weight, w.norm2_bias, shape.eps[1]),
    )


class _Fused(torch.autograd.Function):
    """`_forward` and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor | None,
        first: Tensor | None,
        second: Tensor | None,
        shape: Shape,
        *weights: Tensor,
    ) -> Tensor:
        out, kept = _forward(x, rows, first, second, shape, Weights(*weights))
        ctx.shape, ctx.x_shape = shape, x.shape
        ctx.save_for_backward(rows, first, second, *kept, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, first, second, *saved = ctx.saved_tensors
        count = len(Kept._fields)
        kept, w = Kept(*saved[:count]), Weights(*saved[count:])
        shape: Shape = ctx.shape
        kind, (norm1, norm2) = shape.kind, _norms(w, shape)
        gradient = gradient.contiguous().view(-1, gradient.shape[-1])

        branch, fc2_bias = c.scale(gradient, second, kind)
        inner = branch @ w.fc2.to(kind)
        activated, fc1_bias = c.gelu_backward_(inner, kept.hidden, w.fc1_bias)
        fc2 = _weight_gradient(branch, activated)
        del branch, activated
        of_normed = inner @ w.fc1.to(kind)
        middle, normed, branch, sums2 = c.norm_backward(
            of_normed, kept.middle, kept.stats2, norm2, gradient, first
        )
        fc1 = _weight_gradient(inner, normed)
        del inner, of_normed, normed
        proj = _weight_gradient(branch, kept.mixed)
        of_mixed, mixed = branch @ w.proj.to(kind), kept.mixed
        if rows is not None:
            of_mixed, mixed = (
                part.new_zeros(len(kept.qkv), part.shape[1]).index_copy_(0, rows, part)
                for part in (of_mixed, mixed)
            )
            middle = torch.zeros_like(kept.x).index_add_(0, rows, middle)
        of_qkv, qkv_bias = c.attend_backward(
            of_mixed, kept.qkv, w.qkv_bias, mixed, kept.norms, shape.tokens, shape.heads
        )
        del of_mixed, mixed, branch
        of_normed = of_qkv @ w.qkv.to(kind)
        x, normed, _, sums1 = c.norm_backward(
            of_normed, kept.x, kept.stats1, norm1, middle, branch=False
        )
        qkv = _weight_gradient(of_qkv, normed)
        gradients = Weights(
            sums1[0],
            sums1[1],
            qkv,
            qkv_bias,
            proj,
            sums2[2],
            sums2[0],
            sums2[1],
            fc1,
            fc1_bias,
            fc2,
            fc2_bias,
        )
        return x.view(ctx.x_shape), None, None, None, None, *gradients


def _weight_gradient(of_output: Tensor, given: Tensor) -> Tensor:
    """Of a linear layer, float32 [out, in], from rows [R, out] and [R, in]."""
    return (of_output.t() @ given).float()
