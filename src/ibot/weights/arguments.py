"""The published trainer's arguments as settings of ours, and back (spec 11.1)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ibot.config.override import from_plain
from ibot.config.schema import (
    AugmentConfig,
    Config,
    Duration,
    HeadConfig,
    MaskConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from ibot.weights.files import is_configuration
from ibot.weights.read import Weights
from ibot.weights.said import told

PUBLISHED_LOCAL = 96 / 224
"""Side of a local crop over that of a global one; the published trainer has no flag for either."""


def head_config(weights: Weights) -> HeadConfig | None:
    """Settings of the projection head in a file; None where there is no head of ours."""
    if not any(name.startswith("head.mlp") for name in weights.head):
        return None
    if is_configuration(weights.settings):
        return from_plain(weights.settings).head
    return _head_of(weights.settings, weights.head)


def config_of(
    arguments: Mapping[str, Any],
    model: ModelConfig,
    size: tuple[int, int],
    head: Mapping[str, Tensor],
) -> Config:
    """Settings of a published run.

    Args:
        arguments: the flags, by name.
        model: the backbone, found from its tensors: `arch` names only the published sizes.
        size: side of the global crops.
        head: tensors of the student's head, whose sizes have no flags.
    """
    given = arguments.get
    ratio, spread = given("pred_ratio", 0.3), given("pred_ratio_var", 0.0)
    ratios = ratio if isinstance(ratio, (list, tuple)) else [ratio]
    spreads = spread if isinstance(spread, (list, tuple)) else [spread]
    local = max(model.patch, round(size[0] * PUBLISHED_LOCAL / model.patch) * model.patch)
    # A Swin keeps its preset's rate of stochastic depth, whatever the flag says (spec 3.2.1).
    drop_path = (
        0.1 if model.kind == "swin" and given("arch") == "swin_tiny" else given("drop_path", 0.1)
    )
    return Config(
        augment=AugmentConfig(
            num_global=given("global_crops_number", 2),
            num_local=given("local_crops_number", 0),
            global_size=size,
            local_size=(local, local),
            global_scale=tuple(given("global_crops_scale", (0.14, 1.0))),
            local_scale=tuple(given("local_crops_scale", (0.05, 0.4))),
        ),
        mask=MaskConfig(
            ratio=tuple(zip(map(float, ratios), map(float, spreads), strict=True)),
            shape="block" if given("pred_shape", "block") == "block" else "random",
            start=Duration(given("pred_start_epoch", 0), "epochs"),
        ),
        model=replace(model, drop_path=float(drop_path)),
        head=_head_of(arguments, head),
        method=MethodConfig(
            teacher_temp=given("teacher_temp", 0.04),
            teacher_temp_start=given("warmup_teacher_temp", 0.04),
            patch_temp=given("teacher_patch_temp", 0.07),
            patch_temp_start=given("warmup_teacher_patch_temp", 0.04),
            temp_warmup=Duration(given("warmup_teacher_temp_epochs", 30), "epochs"),
            cls_weight=float(given("lambda1", 1.0)),
            patch_weight=float(given("lambda2", 1.0)),
            momentum=given("momentum_teacher", 0.996),
        ),
        optim=OptimConfig(
            name=given("optimizer", "adamw"),
            lr=given("lr", 5e-4),
            min_lr=given("min_lr", 1e-6),
            warmup=Duration(given("warmup_epochs", 10), "epochs"),
            weight_decay=given("weight_decay", 0.04),
            weight_decay_end=given("weight_decay_end", 0.4),
            clip=float(given("clip_grad") or 0.0),
            freeze_last_layer=Duration(given("freeze_last_layer", 1), "epochs"),
        ),
        train=TrainConfig(
            length=Duration(given("epochs", 100), "epochs"),
            batch=given("batch_size_per_gpu", 128) * given("world_size", 1),
            seed=given("seed", 0),
        ),
    )


def arguments_of(config: Config, steps_per_epoch: int, total_steps: int) -> argparse.Namespace:
    """The published flags that mean the same as our settings; durations in epochs."""

    def epochs(length: Duration) -> float:
        steps = length.steps(
            batch=config.train.batch, steps_per_epoch=steps_per_epoch, total_steps=total_steps
        )
        return steps // steps_per_epoch if steps % steps_per_epoch == 0 else steps / steps_per_epoch

    model, head, method, optim = config.model, config.head, config.method, config.optim
    ratios = [pair[0] for pair in config.mask.ratio]
    spreads = [pair[1] for pair in config.mask.ratio]
    published_widths = {192: "vit_tiny", 384: "vit_small", 768: "vit_base", 1024: "vit_large"}
    arch = "swin_tiny" if model.kind == "swin" else published_widths.get(model.width, "vit_small")
    # No published flags: what those networks all have in common, and no other reader would find.
    beyond = told(model, model.pos_size or config.augment.global_size, config.data.reading)
    return argparse.Namespace(
        **beyond,
        arch=arch,
        patch_size=model.patch,
        window_size=model.window,
        out_dim=head.out_dim,
        patch_out_dim=head.patch_out_dim,
        shared_head=head.shared,
        shared_head_teacher=head.shared_teacher,
        norm_last_layer=head.norm_last_layer,
        norm_in_head=None if head.norm == "none" else head.norm,
        act_in_head=head.act,
        momentum_teacher=method.momentum,
        use_masked_im_modeling=True,
        pred_ratio=ratios[0] if len(ratios) == 1 else ratios,
        pred_ratio_var=spreads[0] if len(spreads) == 1 else spreads,
        pred_shape="block" if config.mask.shape == "block" else "rand",
        pred_start_epoch=epochs(config.mask.start),
        lambda1=method.cls_weight,
        lambda2=method.patch_weight,
        warmup_teacher_temp=method.teacher_temp_start,
        teacher_temp=method.teacher_temp,
        warmup_teacher_patch_temp=method.patch_temp_start,
        teacher_patch_temp=method.patch_temp,
        warmup_teacher_temp_epochs=epochs(method.temp_warmup),
        use_fp16=config.train.precision == "float16",
        weight_decay=optim.weight_decay,
        weight_decay_end=optim.weight_decay_end,
        clip_grad=optim.clip,
        batch_size_per_gpu=config.train.batch,
        epochs=epochs(config.train.length),
        freeze_last_layer=epochs(optim.freeze_last_layer),
        lr=optim.lr,
        warmup_epochs=epochs(optim.warmup),
        min_lr=optim.min_lr,
        optimizer=optim.name,
        load_from=None,
        drop_path=model.drop_path,
        global_crops_number=config.augment.num_global,
        global_crops_scale=config.augment.global_scale,
        local_crops_number=config.augment.num_local,
        local_crops_scale=config.augment.local_scale,
        seed=config.train.seed,
        world_size=1,
    )


def _head_of(arguments: Mapping[str, Any], head: Mapping[str, Tensor]) -> HeadConfig:
    """Sizes of the head from its tensors, the rest from the flags."""
    given = arguments.get
    linears = [
        t
        for name, t in head.items()
        if name.startswith("head.mlp.") and name.endswith(".weight") and t.ndim > 1
    ]
    prototypes = head.get("head.last_layer.weight_v")
    norm = given("norm_in_head") or "none"
    defaults = HeadConfig()
    return HeadConfig(
        out_dim=given("out_dim", len(prototypes) if prototypes is not None else defaults.out_dim),
        patch_out_dim=given("patch_out_dim", defaults.patch_out_dim),
        shared=bool(given("shared_head", False)),
        shared_teacher=bool(given("shared_head_teacher", True)),
        layers=len(linears) or defaults.layers,
        hidden_dim=linears[0].shape[0] if len(linears) > 1 else defaults.hidden_dim,
        bottleneck_dim=prototypes.shape[1] if prototypes is not None else 0,
        norm=norm,
        norm_shared=norm != "none",
        act=given("act_in_head", "gelu"),
        norm_last_layer=bool(given("norm_last_layer", True)),
    )
