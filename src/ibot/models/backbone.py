"""What the method and the evaluations may ask of a backbone, and how one is built."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ibot.config.schema import ModelConfig
from ibot.models.swin import SwinTransformer
from ibot.models.vit import VisionTransformer
from ibot.types import TokenOutput

torch.export.register_dataclass(TokenOutput)  # so that programs of `torch.export` return it

BackboneModule = VisionTransformer | SwinTransformer
"""The networks that fulfil `Backbone`."""


@runtime_checkable
class Backbone(Protocol):
    """A network from images to one class token and a grid of patch tokens."""

    embed_dim: int
    """D."""
    patch_size: int
    """Pixels per output token: the cell of the mask grid."""
    num_blocks: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and deviation with which its images are normalised (`ibot.data.pixels.normalize`)."""

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch tokens of an image of that many pixels."""
        ...

    def __call__(self, images: Tensor, mask: Tensor | None = None) -> TokenOutput:
        """Tokens of `images` [B, 3, H, W]; `mask` bool [B, N], True = hidden; None = nothing
        hidden.
        """
        ...

    def forward_rows(self, images: Tensor, mask: Tensor | None, rows: Tensor) -> Tensor:
        """The rows `rows` int64 [R] of the flattened tokens [B * (1 + N), D], class token first:
        [R, D].
        """
        ...

    def last_layers(self, images: Tensor, num: int, norm: bool = True) -> list[TokenOutput]:
        """Outputs of the last `num` blocks, earliest first."""
        ...

    def attention_maps(self, images: Tensor, block: int = -1) -> Tensor:
        """Attention probabilities of one block, for pictures: [B, heads, 1 + N, 1 + N] for a ViT.

        A Swin has no class token to attend from and gives each window: [B * windows, heads, q * q,
        q * q].
        """
        ...

    def blocks_for_sharding(self) -> list[nn.Module]:
        """The units of activation checkpointing, compilation and sharding."""
        ...


def build_backbone(
    config: ModelConfig, image_size: tuple[int, int], drop_path: float = 0.0, masked: bool = False
) -> BackboneModule:
    """Build a backbone with fresh weights.

    Args:
        config: the network's settings.
        image_size: height and width in pixels for which the position table or the windows are
            built, unless `config.pos_size` says.
        drop_path: stochastic depth of the last block; the teacher has 0.
        masked: with a mask token (the student).
    """
    network = {"vit": VisionTransformer, "swin": SwinTransformer}[config.kind]
    return network(config, config.pos_size or image_size, drop_path, masked)
