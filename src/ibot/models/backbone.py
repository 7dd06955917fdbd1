"""How a backbone is built; `ibot.models.contract` says what may be asked of it."""

from __future__ import annotations

import torch

from ibot.config.schema import ModelConfig
from ibot.models.contract import Backbone
from ibot.models.swin import SwinTransformer
from ibot.models.vit import VisionTransformer
from ibot.types import TokenOutput

torch.export.register_dataclass(TokenOutput)  # so that programs of `torch.export` return it


def build_backbone(
    config: ModelConfig, image_size: tuple[int, int], drop_path: float = 0.0, masked: bool = False
) -> Backbone:
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
