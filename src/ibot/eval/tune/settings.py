"""Settings of fine-tuning and the published recipes (spec_evaluation 8.4, 8.5, 8.7).

Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ibot.config.ranges import Range, check_ranges
from ibot.errors import UserError

Architecture = Literal["small", "base", "large"]

SWEPT_RATES = (8e-4, 9e-4, 1e-3, 2e-3)
"""Base rates, at a batch of 1024, among which the paper chooses on the validation images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """How a backbone and a new classifier are trained together.

    The defaults are ViT-S/16 on ImageNet-1K (8.4).
    """

    epochs: int = 200
    """Passes over the training images."""
    batch: int = 1024
    """Images per optimizer step over all processes; at most the training set."""
    micro_batch: int = 128
    """Images per forward pass, which share one mixing ratio; a step is made of as many passes as
    its batch needs, spread over the processes. Published: one pass per GPU. Equal micro-batches
    give equal numbers on any number of processes."""
    lr: float = 1e-3
    """Peak learning rate of the last layer: for a batch of `lr_batch`, or as it is."""
    lr_batch: int = 0
    """Images per step that `lr` is meant for, it grows in proportion; 0: not scaled (8.4)."""
    min_lr: float = 1e-6
    """Where the cosine ends; scaled by the layers like the peak."""
    schedule: Literal["step", "epoch"] = "step"
    """Per step from 0 (8.4), or per epoch from `warmup_lr` and one epoch late (timm's scheduler
    in 8.5 and 8.7)."""
    warmup_epochs: int = 20
    """Epochs of linear warm-up."""
    warmup_lr: float = 1e-6
    """Rate at which the warm-up of `schedule=epoch` begins; the other one begins at 0."""
    layer_decay: float = 0.75
    """Factor of the learning rate from each layer to the one below it; 1: the same rate for all."""
    weight_decay: float = 0.05
    """AdamW's; constant, not for vectors and biases."""
    decay_tokens: bool = False
    """Whether position table and class token decay: not in 8.4, yes in 8.5 and 8.7."""
    drop_path: float = 0.1
    """Stochastic depth of the last block; grows linearly from 0."""
    head_layers: int = 0
    """Layers of the pre-trained projection head kept below the classifier (8.5): 0 none, 1 or 2
    leading layers, 3 the whole head with bottleneck and prototypes."""
    init_scale: float = 0.001
    """Factor of the classifier's initial weights, which are normal with std 0.02."""
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's words; empty: colour jitter of 0.4 in its place."""
    erasing: float = 0.25
    """Probability that a box of noise is put over an image."""
    mixup: float = 0.8
    """Alpha of mixup; 0: off."""
    cutmix: float = 1.0
    """Alpha of CutMix, which takes turns with mixup; 0: off."""
    label_smoothing: float = 0.1
    """Share of each target spread over all classes."""
    repeats: int = 1
    """Views of an image in an epoch of as many views as images; 3: repeated augmentation (8.7)."""
    test_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Resizing of validation images: bilinear in 8.4, bicubic in 8.5 and 8.7."""
    whole_from: int = 384
    """Input size in pixels from which the validation view spans the whole shorter side instead
    of 7/8; 0: never."""
    keep_size: bool = True
    """Validation images of the input's size are taken as they are; published: enlarged and
    cropped like all others."""
    ema_decay: float = 0.0
    """Decay per step of the running mean of the weights that is saved, never scored; 0: none."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the matrix products on a GPU; auto: bfloat16 where it is native, else float32.
    Published: float16. A CPU always computes in float32."""
    checkpoint_steps: int = 500
    """Optimizer steps between checkpoints inside of an epoch; 0: only at the end of each epoch."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a number with which nothing can be trained."""
        check_ranges(self, _RANGES, "fine-tuned")


_RANGES: tuple[Range, ...] = (
    (("epochs", "batch", "micro_batch", "repeats"), "at least 1", lambda value: value >= 1),
    (("lr", "layer_decay"), "above 0", lambda value: value > 0),
    (("drop_path", "ema_decay"), "at least 0 and below 1", lambda value: 0 <= value < 1),
    (("erasing", "label_smoothing"), "between 0 and 1", lambda value: 0 <= value <= 1),
    (("head_layers",), "between 0 and 3", lambda value: 0 <= value <= 3),
    (
        (
            "lr_batch",
            "min_lr",
            "warmup_epochs",
            "warmup_lr",
            "weight_decay",
            "init_scale",
            "mixup",
            "cutmix",
            "whole_from",
            "checkpoint_steps",
        ),
        "at least 0",
        lambda value: value >= 0,
    ),
)


_BY_ARCHITECTURE: dict[Architecture, tuple[int, int, float, float, int]] = {
    "small": (200, 20, 0.75, 0.1, 128),
    "base": (100, 20, 0.65, 0.2, 128),
    "large": (50, 5, 0.75, 0.4, 64),
}
"""Epochs, warm-up epochs, layer decay, drop path and micro-batch of 8.4 (paper appendix C). ViT-L
took two passes per step on each of eight GPUs."""

TRANSFER_SETS: dict[str, tuple[float, float, int, float]] = {
    "cifar10": (7.5e-6, 7.5e-6, 1000, 0.25),
    "cifar100": (7.5e-6, 7.5e-6, 1000, 0.25),
    "cars": (7.5e-5, 7.5e-5, 1000, 0.25),
    "flowers": (7.5e-6, 7.5e-6, 1000, 0.25),
    "inat18": (7.5e-6, 5e-5, 360, 0.1),
    "inat19": (7.5e-6, 2.5e-5, 360, 0.1),
}
"""Base rate of ViT-B, base rate of ViT-S, epochs and erasing of 8.7."""


SMALL_SET = 2000
"""Training images below which a fine-tuning has few steps."""


def imagenet_settings(architecture: Architecture, lr: float = 1e-3) -> FinetuneSettings:
    """The recipe of ImageNet-1K (8.4); `lr` is one of `SWEPT_RATES`.

    Raises UserError for an unknown architecture.
    """
    epochs, warmup, decay, drop_path, micro_batch = _BY_ARCHITECTURE[
        _known_architecture(architecture)
    ]
    return FinetuneSettings(
        epochs=epochs,
        micro_batch=micro_batch,
        warmup_epochs=warmup,
        layer_decay=decay,
        drop_path=drop_path,
        lr=lr,
        keep_size=False,
        precision="float16",
    )


def semi_supervised_settings() -> FinetuneSettings:
    """End to end on 1 % or 10 % of the labels, from the first layer of the projection head (8.5).

    The peak of 1e-5 equals the floor: after the warm-up the rate is flat, as published.
    """
    return _deit_settings(
        epochs=1000, batch=1024, micro_batch=128, lr=5e-6, erasing=0.25, head_layers=1
    )


def transfer_settings(data_set: str, architecture: Architecture) -> FinetuneSettings:
    """The published recipe of a smaller set (8.7).

    ViT-L was not published and gets the numbers of ViT-B. Raises UserError for an unknown set or
    architecture.
    """
    if data_set not in TRANSFER_SETS:
        raise UserError(
            f"no published transfer to '{data_set}'", fix=f"use one of {', '.join(TRANSFER_SETS)}"
        )
    base, small, epochs, erasing = TRANSFER_SETS[data_set]
    lr = small if _known_architecture(architecture) == "small" else base
    return _deit_settings(
        epochs=epochs, batch=768, micro_batch=96, lr=lr, erasing=erasing, head_layers=0
    )


def sane_settings(architecture: Architecture, num_train: int, batch: int = 256) -> FinetuneSettings:
    """A recipe for own data: 8.4 with a length that fits the set (advice of 8.4 and 8.7).

    20,000 steps, but 30 epochs at least and 100 (those of the published ViT-B) at most; the rate is
    1e-3 for a batch of 256. Below `SMALL_SET` images small batches and no mixing: with few steps
    both helped, as did the higher rate (docs/log.md). Raises UserError for an unknown architecture.

    Args:
        architecture: the nearest one in width; decides the drop path.
        num_train: training images.
        batch: images per step.
    """
    drop_path = _BY_ARCHITECTURE[_known_architecture(architecture)][3]
    if num_train < SMALL_SET:
        return FinetuneSettings(
            epochs=100,
            batch=32,
            lr_batch=256,
            warmup_epochs=5,
            drop_path=drop_path,
            mixup=0.0,
            cutmix=0.0,
        )
    steps_per_epoch = max(1, num_train // max(1, min(batch, num_train)))
    return FinetuneSettings(
        epochs=min(100, max(30, round(20_000 / steps_per_epoch))),
        batch=batch,
        lr_batch=256,
        warmup_epochs=5,
        drop_path=drop_path,
    )


def _deit_settings(
    *, epochs: int, batch: int, micro_batch: int, lr: float, erasing: float, head_layers: int
) -> FinetuneSettings:
    """What 8.5 and 8.7 share: the training script of DeiT."""
    return FinetuneSettings(
        epochs=epochs,
        batch=batch,
        micro_batch=micro_batch,
        lr=lr,
        lr_batch=512,
        min_lr=1e-5,
        schedule="epoch",
        warmup_epochs=5,
        layer_decay=1.0,
        decay_tokens=True,
        head_layers=head_layers,
        init_scale=1.0,
        erasing=erasing,
        repeats=3,
        test_interpolation="bicubic",
        whole_from=0,
        keep_size=False,
        ema_decay=0.99996,
        precision="float16",
    )


def _known_architecture(name: Architecture) -> Architecture:
    if name not in _BY_ARCHITECTURE:
        raise UserError(
            f"no published fine-tuning of '{name}'", fix=f"use one of {', '.join(_BY_ARCHITECTURE)}"
        )
    return name
