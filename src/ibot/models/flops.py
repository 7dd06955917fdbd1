"""Matrix products of a forward pass by formula, and the parameters behind them; no torch needed.

Counted as `torch.utils.flop_counter` does: products and convolutions alone, two operations for a
multiply-add. Nothing is counted for norms, activations and softmax: they take memory traffic, not
products. The tests hold both against the counter and the networks themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ibot.config.schema import HeadConfig, ModelConfig

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Products:
    """Operations of one image in one network."""

    embed: float
    """Of the patch embedding, forward."""
    rest: float
    """Of all else, forward."""

    @property
    def forward(self) -> float:
        """Of the forward pass."""
        return self.embed + self.rest

    @property
    def both(self) -> float:
        """Of forward and backward; nobody asks for the gradient of the pixels."""
        return 2 * self.embed + 3 * self.rest


def token_counts(model: ModelConfig, size: Size) -> list[int]:
    """Tokens of an image in each stage: class token and registers in a ViT, none in a Swin."""
    rows, columns = size[0] // model.patch, size[1] // model.patch
    if model.kind == "vit":
        return [1 + rows * columns + model.registers]
    counts = []
    for _ in model.depths:
        counts.append(rows * columns)
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return counts


def backbone_products(
    model: ModelConfig, size: Size, built_for: Size, rows: float | None = None
) -> Products:
    """Of one image of `size` pixels in a network that was built for images of `built_for`.

    rows: tokens for which the last block is finished where that is not all (spec 5.7, I5); a Swin,
    and a ViT whose class output is a mean, finish all of them.
    """
    rows_embedded, columns = size[0] // model.patch, size[1] // model.patch
    pixels = len(model.channels) * model.patch**2
    embed = 2 * rows_embedded * columns * pixels * model.width
    if model.kind == "swin":
        return Products(embed, _swin(model, size, built_for))
    (tokens,) = token_counts(model, size)
    last = tokens if rows is None or model.mean_pooling else rows
    width, hidden = model.width, int(model.width * model.mlp_ratio)
    mixing = 6 * tokens * width**2 + 4 * tokens**2 * width  # queries, keys, values; attention
    after = 2 * width**2 + 4 * width * hidden  # projection, MLP: of one token
    return Products(embed, model.depth * mixing + ((model.depth - 1) * tokens + last) * after)


def _swin(model: ModelConfig, size: Size, built_for: Size) -> float:
    rows, columns = size[0] // model.patch, size[1] // model.patch
    total = 0.0
    for k, depth in enumerate(model.depths):
        width = model.width * 2**k
        side = min(model.window, min(built_for) // model.patch // 2**k)
        padded = (-(-rows // side) * side) * (-(-columns // side) * side)
        # Padding is attended to like any token; behind the windows it is cut off.
        windows = padded * (8 * width**2 + 4 * side**2 * width)
        mlp = rows * columns * 4 * width * int(width * model.mlp_ratio)
        total += depth * (windows + mlp)
        if k < len(model.depths) - 1:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
            total += rows * columns * 16 * width**2
    return total


def embed_dim(model: ModelConfig) -> int:
    """D, width of the output tokens."""
    return model.width * 2 ** (len(model.depths) - 1) if model.kind == "swin" else model.width


def head_widths(model: ModelConfig, head: HeadConfig) -> list[int]:
    """Widths before, between and behind the layers of the head's MLP."""
    out = head.bottleneck_dim or head.out_dim
    return [embed_dim(model), *[head.hidden_dim] * (head.layers - 1), out]


def projecting(model: ModelConfig, head: HeadConfig) -> float:
    """Operations of one row in the head up to the last layer, forward."""
    widths = head_widths(model, head)
    if not head.bottleneck_dim:
        widths = widths[:-1]  # the MLP's own end is the last layer
    return float(sum(2 * a * b for a, b in pairwise(widths)))


def scoring(model: ModelConfig, head: HeadConfig, prototypes: int) -> float:
    """Operations of one row in a last layer of so many prototypes, forward."""
    return 2.0 * head_widths(model, head)[-2 if not head.bottleneck_dim else -1] * prototypes
