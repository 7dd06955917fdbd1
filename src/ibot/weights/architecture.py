"""Which network a set of tensors belongs to: settings from a configuration where there is one, else from the shapes."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ibot.config.override import from_plain
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError

log = logging.getLogger("ibot")

HEAD_WIDTH = 64
"""Width of an attention head in every published ViT."""
PUBLISHED_HEADS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16}
PUBLISHED_SIZE = 224
OTHER_EPS = {"timm swin": 1e-5, "huggingface vit": 1e-12, "huggingface swin": 1e-5}
"""Layer-norm epsilon of projects that do not use 1e-6, where no configuration says."""


def model_settings(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], layout: str, source: str, heads: int | None = None
) -> tuple[ModelConfig, tuple[int, int]]:
    """The network's settings, with the image size for which it was built, and the size of the views it saw.

    Args:
        tensors: a backbone in our names.
        settings: our configuration as plain data, published arguments, a configuration of Hugging Face or timm, or
            nothing.
        layout: where the names came from; see `ibot.weights.rename`.
        source: the file, for messages.
        heads: attention heads of a ViT, where the file does not say and they are not D / 64.

    Raises WeightsError when the tensors are neither a ViT nor a Swin.
    """
    if "model" in settings and "augment" in settings:
        config = from_plain(dict(settings))
        view = config.augment.global_size
        return replace(config.model, pos_size=config.model.pos_size or view), view
    if "patch_embed.proj.weight" in tensors:
        if "pos_embed" in tensors and "cls_token" in tensors:
            return _vit(tensors, settings, layout, heads)
        if any(name.endswith("relative_position_bias_table") for name in tensors):
            return _swin(tensors, settings, layout)
    raise WeightsError(
        f"'{source}' is neither a ViT nor a Swin",
        why=f"a ViT has patch_embed, pos_embed and cls_token, a Swin layers.*; found {', '.join(list(tensors)[:4])}",
        fix="`ibot weights inspect` lists what the file holds",
    )


def _vit(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], layout: str, heads: int | None
) -> tuple[ModelConfig, tuple[int, int]]:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    # A table that is no square was built for another size; only a configuration can tell which.
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    known = heads or settings.get("num_attention_heads") or settings.get("model_args", {}).get("num_heads", 0)
    by_name = PUBLISHED_HEADS.get(str(settings.get("arch", "")), 0)
    size = (side * patch, side * patch)
    guessed = not known and by_name * HEAD_WIDTH != width
    if guessed and width // HEAD_WIDTH not in PUBLISHED_HEADS.values():
        log.warning("heads are not in the file: %d are assumed, width / 64; --heads N says better", width // HEAD_WIDTH)
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in tensors else 4 * width
    config = ModelConfig(
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\."),
        heads=known or (by_name if by_name * HEAD_WIDTH == width else 0) or max(1, width // HEAD_WIDTH),
        patch=patch,
        mlp_ratio=hidden / width,
        norm_eps=float(settings.get("layer_norm_eps") or OTHER_EPS.get(f"{layout} vit", 1e-6)),
        layer_scale=1.0 if "blocks.0.gamma_1" in tensors else 0.0,
        mean_pooling="fc_norm.weight" in tensors and "norm.weight" not in tensors,
        registers=tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0,
        drop_path=0.0,
        pos_size=size,
    )
    return config, size


def _swin(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], layout: str
) -> tuple[ModelConfig, tuple[int, int]]:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    stages = _count(tensors, r"layers\.(\d+)\.")
    tables = [tensors[f"layers.{k}.blocks.0.attn.relative_position_bias_table"] for k in range(stages)]
    sides = [(math.isqrt(len(table)) + 1) // 2 for table in tables]
    # A stage of fewer tokens than the window has a smaller table: that tells the size for which it was built.
    shrunk = [side * patch * 2**k for k, side in enumerate(sides) if side < max(sides)]
    size = int(settings.get("image_size") or (shrunk[0] if shrunk else PUBLISHED_SIZE))
    config = ModelConfig(
        kind="swin",
        width=width,
        depths=tuple(_count(tensors, rf"layers\.{k}\.blocks\.(\d+)\.") for k in range(stages)),
        stage_heads=tuple(table.shape[1] for table in tables),
        window=max(sides),
        patch=patch,
        mlp_ratio=tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
        norm_eps=float(settings.get("layer_norm_eps") or OTHER_EPS.get(f"{layout} swin", 1e-6)),
        drop_path=0.0,
        pos_size=(size, size),
    )
    return config, (size, size)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers appear at the group of `pattern` in the names."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
