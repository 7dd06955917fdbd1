"""What options of hidden patches, their losses and targets cannot work with, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ibot.config.schema import Config


def patch_problems(config: Config) -> Iterator[str]:
    """A line for each contradiction in `mask`, and in what `method` says of patches."""
    mask, method = config.mask, config.method
    for mean, half_width in mask.ratio:
        if not 0 <= mean - half_width <= mean + half_width <= 1:
            yield (
                f"mask.ratio {mean:g}:{half_width:g}: mean minus and plus half-width must lie "
                "within 0 and 1"
            )
    if not mask.ratio:
        yield "mask.ratio is empty"
    if mask.min_block < 0:
        yield f"mask.min_block={mask.min_block} must not be negative"
    if mask.min_block and mask.shape != "block":
        yield f"mask.min_block is of blocks, and mask.shape={mask.shape}"
    cells = math.prod(side // config.model.stride for side in config.augment.global_size)
    most = max((mean + half_width for mean, half_width in mask.ratio), default=0) * cells
    if mask.min_block > most:
        yield (
            f"mask.min_block={mask.min_block} is larger than any mask: mask.ratio hides "
            f"{most:.3g} of {cells} patches at most"
        )
    if mask.views == "all":
        yield from _local_mask_problems(config)
    if mask.shape == "attention":
        yield from _attention_problems(config)
    hides = method.patch_match == "hidden" and method.patch_target == "online"
    if method.visible_weight < 0:
        yield f"method.visible_weight={method.visible_weight:g} must not be negative"
    if method.visible_weight and not (hides and mask.views != "all"):
        yield (
            "method.visible_weight needs method.patch_match=hidden, method.patch_target=online and "
            "no masks of local views (mask.views); method.visible_weight=0 leaves that loss out"
        )
    across = method.visible_weight and method.visible_target == "other"
    if across and not (config.augment.num_global == 2 and mask.shape != "attention"):
        yield (
            "method.visible_target=other needs augment.num_global=2 and a mask.shape that is "
            "drawn; method.visible_target=own, or method.visible_weight=0"
        )
    if not method.patch_target_norm and not (hides and _has_norm(config)):
        yield (
            "method.patch_target_norm=false leaves out the final norm of a ViT: it needs "
            "model.kind=vit, model.mean_pooling=false, method.patch_match=hidden and "
            "method.patch_target=online"
        )
    if method.patch_residual and not (hides and mask.views != "all" and config.head.bottleneck_dim):
        yield (
            "method.patch_residual=true needs method.patch_match=hidden, "
            "method.patch_target=online, head.bottleneck_dim above 0 and no masks of local views "
            "(mask.views); method.patch_residual=false takes whole targets"
        )
    balanced = method.targets == "sinkhorn" and method.patch_target == "online"
    if method.patch_balance == "all" and not (balanced and mask.views != "all"):
        yield (
            "method.patch_balance=all needs method.targets=sinkhorn, method.patch_target=online "
            "and no masks of local views (mask.views)"
        )


def _local_mask_problems(config: Config) -> Iterator[str]:
    augment, method, stride = config.augment, config.method, config.model.stride
    if not augment.num_local or method.patch_match != "hidden" or method.patch_target != "online":
        yield (
            "mask.views=all hides patches of local views: it needs augment.num_local above 0, "
            "method.patch_match=hidden and method.patch_target=online"
        )
    if config.model.kind == "swin" and any(side % stride for side in augment.local_size):
        height, width = augment.local_size
        yield (
            f"augment.local_size={height},{width} must be multiples of {stride} with mask.views=all"
        )


def _has_norm(config: Config) -> bool:
    """Whether there is a class token, and a norm behind it and the patches."""
    return config.model.kind == "vit" and not config.model.mean_pooling


def _attention_problems(config: Config) -> Iterator[str]:
    if not _has_norm(config):
        yield (
            "mask.shape=attention hides what a class token attends to: it needs model.kind=vit "
            "and model.mean_pooling=false"
        )
    if config.method.patch_match != "hidden" or config.mask.views == "all":
        yield (
            "mask.shape=attention needs method.patch_match=hidden and no masks of local views "
            "(mask.views)"
        )
    if config.system.shard == "fsdp":
        yield (
            "mask.shape=attention reads weights of the last block, of which system.shard=fsdp "
            "leaves each process a part"
        )
