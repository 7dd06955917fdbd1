"""Numbers of parameters by formula, without building a network; the tests compare both."""

from __future__ import annotations

from itertools import pairwise

from ibot.config.schema import HeadConfig, ModelConfig
from ibot.models.flops import Size, head_widths


def backbone_parameters(model: ModelConfig, built_for: Size, *, masked: bool) -> int:
    """Of a backbone for images of `built_for` pixels; masked: with a mask token (the student)."""
    pixels = len(model.channels) * model.patch**2
    embed = pixels * model.width + model.width + masked * model.width
    if model.kind == "swin":
        return embed + 2 * model.width + _stages(model, built_for)
    width, hidden = model.width, int(model.width * model.mlp_ratio)
    patches = (built_for[0] // model.patch) * (built_for[1] // model.patch)
    tokens = width * (2 + patches + model.registers)  # class token, positions, registers
    gains = 2 * width if model.layer_scale else 0
    return embed + tokens + model.depth * (_block(width, hidden) + gains) + 2 * width


def _block(width: int, hidden: int) -> int:
    """Two norms, attention, MLP."""
    return 4 * width + 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width


def _stages(model: ModelConfig, built_for: Size) -> int:
    total, last = 0, len(model.depths) - 1
    for k, (depth, heads) in enumerate(zip(model.depths, model.stage_heads, strict=True)):
        width = model.width * 2**k
        side = min(model.window, min(built_for) // model.patch // 2**k)
        bias = (2 * side - 1) ** 2 * heads
        total += depth * (_block(width, int(width * model.mlp_ratio)) + bias)
        # Merging: a norm and a product without bias; behind the last stage the final norm.
        total += 8 * width + 8 * width**2 if k < last else 2 * width
    return total


def head_parameters(model: ModelConfig, head: HeadConfig, *, shared: bool) -> tuple[int, int]:
    """Of a projection head: all, and those of them that are trained."""
    widths = head_widths(model, head)
    linear = [a * b + b for a, b in pairwise(widths)]
    norms = head.layers - 1 if head.norm != "none" else 0
    norms = min(1, norms) if head.norm_shared else norms
    mlp = sum(linear) + norms * 2 * head.hidden_dim
    if 0 <= head.shared_layers < head.layers:
        own = linear[head.shared_layers :]
        mlp += sum(own) + (len(own) - 1) * 2 * head.hidden_dim * (head.norm != "none")
    outputs = head.out_dim + (0 if shared else head.patch_out_dim)
    if not head.bottleneck_dim:
        return (whole := mlp + (outputs - head.out_dim) * (widths[-2] + 1)), whole
    lengths = outputs
    whole = mlp + outputs * head.bottleneck_dim + lengths
    return whole, whole - lengths * head.norm_last_layer
