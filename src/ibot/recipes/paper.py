"""The published models (spec 7.1), with the `SOURCES` of their values and `PUBLISHED` scores.

R: README of the published code. D: default of the published code. P: paper. T: a third party that
repeats the published arguments. i: inferred here. Values without an entry are D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ibot.config.duration import duration
from ibot.config.schema import Config, MaskConfig

BLOCK = MaskConfig(ratio=((0.0, 0.0), (0.3, 0.2)), shape="block")
RANDOM = MaskConfig(ratio=((0.0, 0.0), (0.7, 0.05)), shape="random")

_COMMON = {
    "train.batch": "R,P",
    "method.teacher_temp": "R",
    "method.patch_temp": "D,P",
    "head.out_dim": "R,P",
    "augment.num_local": "R,P",
    "mask.ratio": "R,P",
    "mask.shape": "R",
}
_BASE = {
    "train.length": "P",
    "optim.lr": "T (P says 5e-4)",
    "optim.min_lr": "T",
    "optim.clip": "T",
    "method.temp_warmup": "T",
    "head.shared": "T",
    "head.norm_last_layer": "T",
    "optim.freeze_last_layer": "T",
    "augment.global_scale": "T,P",
    "augment.local_scale": "T,P",
}
_LARGE = {
    **_BASE,
    "train.length": "P (text; tables 1 and 15 say 300)",
    "optim.lr": "P,T",
    "optim.min_lr": "T (one source, not verified)",
    "optim.weight_decay_end": "T (one source, not verified)",
    "model.drop_path": "T (one source, not verified)",
    "method.temp_warmup": "i (unknown)",
    "augment.global_scale": "T",
    "augment.local_scale": "T",
}
_SWIN = {
    **_COMMON,
    "train.length": "R,P",
    "method.temp_warmup": "R",
    "model.window": "R",
    "mask.start": "R",
    "head.shared": "R",
    "head.norm_last_layer": "R",
    "augment.global_scale": "R",
    "augment.local_scale": "R",
}
_IN22K = {
    "train.length": "P",
    "augment.num_local": "P",
    "head.out_dim": "P",
    "head.shared": "P",
    "mask.ratio": "P",
    "mask.shape": "R",
    **dict.fromkeys(
        (
            "train.batch",
            "optim.lr",
            "optim.min_lr",
            "optim.clip",
            "optim.weight_decay_end",
            "model.drop_path",
            "method.teacher_temp",
            "method.temp_warmup",
            "head.norm_last_layer",
            "optim.freeze_last_layer",
            "augment.global_scale",
            "augment.local_scale",
        ),
        "i (unknown; as the ImageNet-1K model)",
    ),
}
_SMALL = {
    **_COMMON,
    "train.length": "R,P",
    "method.temp_warmup": "R",
    "head.shared": "R",
    "head.norm_last_layer": "R",
    "augment.global_scale": "R",
    "augment.local_scale": "R",
}
SOURCES: dict[str, dict[str, str]] = {
    "vit_s16": _SMALL,
    "vit_b16": {**_COMMON, **_BASE},
    "vit_b16_rand": {
        **_COMMON,
        **_BASE,
        "train.length": "T",
        "mask.ratio": "T",
        "mask.shape": "R,T",
    },
    "vit_l16": {**_COMMON, **_LARGE},
    "vit_l16_rand": {
        **_COMMON,
        **{key: "i (from the block model)" for key in _LARGE},
        "mask.ratio": "i",
        "mask.shape": "R",
    },
    "swin_t7": {
        **dict.fromkeys(_SWIN, "i (from the window-14 model)"),
        "train.length": "P",
        "train.batch": "P",
        "head.out_dim": "P",
        "model.window": "R",
    },
    "swin_t14": {**_SWIN, "train.batch": "R (P says 1024)"},
    "vit_b16_in22k": _IN22K,
    "vit_l16_in22k": _IN22K,
    "vit_s16_k1000": {**dict.fromkeys(_SMALL, "i (as vit_s16)"), "head.out_dim": "R"},
    "ablation_base": {
        "train.length": "P",
        "train.batch": "P",
        "augment.num_local": "P",
        "head.out_dim": "P",
        "head.shared": "P",
        "mask.ratio": "P",
        "method.patch_temp": "P",
        "method.teacher_temp": "i (P: as DINO)",
        "head.norm_last_layer": "i",
    },
}


@dataclass(frozen=True, slots=True)
class Published:
    """What a published model is and what it reached on ImageNet-1K."""

    parameters: int
    """Of the backbone, mask token excluded."""
    images: int
    """Of the training set."""
    throughput: int
    """Images per second of inference on one V100 (paper, table 1)."""
    knn: float | None = None
    linear: float | None = None
    finetune: float | None = None


IMAGENET_1K, IMAGENET_22K = 1_281_167, 14_197_122
PUBLISHED: dict[str, Published] = {
    "vit_s16": Published(21_665_664, IMAGENET_1K, 1007, 75.2, 77.9, 82.3),
    "vit_b16": Published(85_798_656, IMAGENET_1K, 312, 77.1, 79.5, 84.0),
    "vit_b16_rand": Published(85_798_656, IMAGENET_1K, 312, 77.3, 79.8, 84.1),
    "vit_l16": Published(303_301_632, IMAGENET_1K, 102, 78.0, 81.0, 84.8),
    "vit_l16_rand": Published(303_301_632, IMAGENET_1K, 102, 77.7, 81.3, 85.0),
    "swin_t7": Published(27_519_354, IMAGENET_1K, 726, 75.3, 78.6),
    "swin_t14": Published(27_569_754, IMAGENET_1K, 593, 76.2, 79.3),
    "vit_b16_in22k": Published(85_798_656, IMAGENET_22K, 312, 71.1, 79.0, 84.4),
    "vit_l16_in22k": Published(303_301_632, IMAGENET_22K, 102, 72.9, 82.3, 86.6),
    "vit_s16_k1000": Published(21_665_664, IMAGENET_1K, 1007),
    "ablation_base": Published(21_665_664, IMAGENET_1K, 1007, 69.1, 74.2, 81.5),
}
V100_TRAINING = 92.0
"""Images per second and V100 when ViT-S/16 trains with ten local crops (paper: 24.3 hours, 16
GPUs, 100 epochs)."""
V100_TRAINING_TWO_CROPS = 142.0
"""The same without local crops (47.0 hours, 300 epochs)."""


def v100_hours(name: str, config: Config) -> float:
    """Estimated cost of a recipe: ViT-S/16's measured speed, scaled by those of table 1."""
    model = PUBLISHED[name]
    speed = V100_TRAINING if config.augment.num_local else V100_TRAINING_TWO_CROPS
    return config.train.length.value * model.images / (speed * model.throughput / 1007) / 3600


def vit_s16() -> Config:
    """ViT-S/16, 800 epochs of ImageNet-1K, 16 GPUs x 64 images.

    193 hours on V100 (table on time and memory). Published: k-NN 75.2, linear 77.9, fine-tuning
    82.3.
    """
    return Config()


def vit_b16() -> Config:
    """ViT-B/16, block masks, 400 epochs of ImageNet-1K.

    Published: k-NN 77.1, linear 79.5, fine-tuning 84.0.
    """
    config = vit_s16()
    return replace(
        config,
        model=replace(config.model, width=768, heads=12),
        train=replace(config.train, length=duration("400 epochs")),
        optim=replace(
            config.optim, lr=7.5e-4, min_lr=2e-6, clip=0.3, freeze_last_layer=duration("3 epochs")
        ),
        method=replace(config.method, temp_warmup=duration("50 epochs")),
        head=replace(config.head, norm_last_layer=True),
        augment=replace(config.augment, global_scale=(0.32, 1.0), local_scale=(0.05, 0.32)),
        mask=BLOCK,
    )


def vit_b16_rand() -> Config:
    """ViT-B/16, random masks, 400 epochs of ImageNet-1K.

    Published: k-NN 77.3, linear 79.8, fine-tuning 84.1.
    """
    return replace(vit_b16(), mask=RANDOM)


def vit_l16() -> Config:
    """ViT-L/16, block masks, 250 epochs of ImageNet-1K.

    Published: k-NN 78.0, linear 81.0, fine-tuning 84.8.
    """
    config = vit_b16()
    return replace(
        config,
        model=replace(config.model, width=1024, depth=24, heads=16, drop_path=0.2),
        train=replace(config.train, length=duration("250 epochs")),
        optim=replace(config.optim, lr=5e-4, min_lr=2e-4, weight_decay_end=0.48),
        augment=replace(config.augment, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)),
    )


def vit_l16_rand() -> Config:
    """ViT-L/16, random masks; settings of the block model.

    Published: k-NN 77.7, linear 81.3, fine-tuning 85.0.
    """
    return replace(vit_l16(), mask=RANDOM)


def swin_t7() -> Config:
    """Swin-T, window 7, 300 epochs of ImageNet-1K, patch loss from epoch 50.

    Published: k-NN 75.3, linear 78.6.
    """
    config = vit_s16()
    return replace(
        config,
        # The published trainer leaves a Swin its own rate of stochastic depth, 0.1 (spec 3.2.1).
        model=replace(config.model, kind="swin", width=96, patch=4, window=7, drop_path=0.1),
        train=replace(config.train, length=duration("300 epochs")),
        mask=replace(BLOCK, start=duration("50 epochs")),
    )


def swin_t14() -> Config:
    """Swin-T, window 14, 300 epochs of ImageNet-1K, 40 GPUs x 26 images.

    Published: k-NN 76.2, linear 79.3.
    """
    config = swin_t7()
    return replace(
        config, model=replace(config.model, window=14), train=replace(config.train, batch=1040)
    )


def vit_b16_in22k() -> Config:
    """ViT-B/16, 80 epochs of ImageNet-22K.

    The student was published. k-NN 71.1, linear 79.0, fine-tuning 84.4.
    """
    config = vit_b16()
    return replace(config, train=replace(config.train, length=duration("80 epochs")))


def vit_l16_in22k() -> Config:
    """ViT-L/16, 50 epochs of ImageNet-22K.

    The student was published. k-NN 72.9, linear 82.3, fine-tuning 86.6.
    """
    config = vit_l16()
    return replace(config, train=replace(config.train, length=duration("50 epochs")))


def vit_s16_k1000() -> Config:
    """ViT-S/16 with 1,000 prototypes for unsupervised classification.

    Published: ACC 43.4, ARI 32.8, NMI 78.6.
    """
    config = vit_s16()
    return replace(config, head=replace(config.head, out_dim=1000, patch_out_dim=1000))


def ablation_base() -> Config:
    """What the paper's ablations vary: ViT-S/16, 300 epochs, two global crops alone.

    k-NN 69.1, linear 74.2.
    """
    config = vit_s16()
    return replace(
        config,
        train=replace(config.train, length=duration("300 epochs")),
        augment=replace(config.augment, num_local=0, global_scale=(0.14, 1.0)),
        mask=MaskConfig(ratio=((0.3, 0.0),), shape="block"),
    )
