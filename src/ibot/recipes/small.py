"""Recipes of ours for small images, data and machines; measured in docs/results.md, log.md.

They use options beyond the paper, which `ibot pretrain` names on the screen: without them the same
networks learn, but later and with a low rank.
"""

from __future__ import annotations

from dataclasses import replace

from ibot.config.schema import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    EvaluateConfig,
    HeadConfig,
    LogConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    duration,
)


def tiny32() -> Config:
    """Images of 32 pixels (CIFAR), one CPU core: 400,000 images in about 17 minutes.

    As published the patch loss makes the patches of an image alike, and is above its class loss
    alone in nothing at this size: hence residual targets, and visible patches that predict the
    other view (docs/learning.md).
    """
    return Config(
        augment=AugmentConfig(
            num_local=2,
            global_size=(32, 32),
            local_size=(16, 16),
            global_scale=(0.2, 1.0),
            local_scale=(0.08, 0.35),
            jitter_strength=(0.4, 0.4, 0.2, 0.1),
            gray=0.2,
            blur=(0.0, 0.0, 0.0),
            solarize=(0.0, 0.0, 0.0),
        ),
        model=ModelConfig(width=128, depth=5, heads=4, patch=8, drop_path=0.0, init="xavier"),
        head=HeadConfig(out_dim=1024, patch_out_dim=1024, hidden_dim=512, bottleneck_dim=64),
        method=MethodConfig(
            teacher_temp=0.02,
            teacher_temp_start=0.02,
            patch_temp=0.02,
            patch_temp_start=0.02,
            temp_warmup=duration("0 epochs"),
            targets="sinkhorn",
            koleo_weight=0.1,
            patch_residual=True,
            visible_weight=1.0,
            visible_target="other",
            momentum=0.98,
        ),
        optim=OptimConfig(
            lr=6e-3,
            warmup=duration("5 percent"),
            weight_decay_end=0.1,
            betas=(0.9, 0.95),
            freeze_last_layer=duration("0 epochs"),
        ),
        train=TrainConfig(length=duration("400000 images"), batch=64),
        evaluate=EvaluateConfig(every=duration("10 percent")),
        log=LogConfig(every=50),
        checkpoint=CheckpointConfig(every=duration("5 percent"), keep_every=duration("0 epochs")),
    )


def tiny64() -> Config:
    """Images of 64 pixels (Tiny ImageNet, photographs), CPU."""
    config = tiny32()
    return replace(
        config,
        # Photographs want gentler views than CIFAR-10: four points of k-NN (docs/learning.md).
        augment=replace(
            config.augment,
            global_size=(64, 64),
            local_size=(32, 32),
            global_scale=(0.4, 1.0),
            local_scale=(0.15, 0.5),
            jitter_strength=(0.3, 0.3, 0.2, 0.05),
            gray=0.1,
        ),
        model=replace(config.model, patch=16),
    )


def demo() -> Config:
    """Generated shoals of fish, 48 pixels seen at 32; three minutes of one thread (`ibot demo`)."""
    config = tiny32()
    return replace(
        config,
        # The species is a matter of colour too: the hue moves little, and no view is gray. Views
        # are small parts: what they share is the species, not the places of the fish.
        augment=replace(
            config.augment,
            global_scale=(0.3, 1.0),
            local_scale=(0.1, 0.3),
            jitter_strength=(0.4, 0.4, 0.2, 0.05),
            gray=0.0,
        ),
        # Few prototypes, so that images share them.
        head=replace(config.head, out_dim=128, patch_out_dim=128),
        method=replace(config.method, patch_weight=0.5, visible_weight=0.5),
        train=replace(config.train, length=duration("48000 images")),
        evaluate=EvaluateConfig(every=duration("25 percent")),
        log=LogConfig(every=20),
    )


def one_gpu() -> Config:
    """ViT-S/16 on your own photographs, one GPU of 24 GB; shorter clocks. Not measured."""
    config = Config()
    return replace(
        config,
        method=replace(
            config.method, momentum=0.992, temp_warmup=duration("10 percent"), temp_schedule="step"
        ),
        optim=replace(
            config.optim, warmup=duration("5 percent"), freeze_last_layer=duration("1 percent")
        ),
        train=TrainConfig(length=duration("100 epochs"), batch=256),
        checkpoint=CheckpointConfig(every=duration("1 epochs")),
    )


def adapt() -> Config:
    """Continue from good weights on your own photographs (`--init ibot:vit_s16`): slow clocks, and
    a guard that stops a decline.

    Network, crops and head follow the weights; a new head first learns on the frozen backbone.
    Below 2,048 images the batch and the teacher's clock follow the data.
    """
    config = one_gpu()
    return replace(
        config,
        method=replace(
            config.method,
            momentum=0.9995,
            teacher_temp=0.04,
            patch_temp=0.04,
            temp_warmup=duration("0 epochs"),
        ),
        optim=replace(
            config.optim, lr=5e-5, warmup=duration("10 percent"), weight_decay_end=0.04, clip=0.3
        ),
        train=TrainConfig(length=duration("20 epochs"), batch=256),
        evaluate=EvaluateConfig(every=duration("5 percent"), guard=2.0),
    )
