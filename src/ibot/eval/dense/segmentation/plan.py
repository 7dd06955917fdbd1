"""What `none` in the settings of segmentation becomes for a network and its images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.decode import UnreadableImage
from ibot.errors import ConfigError
from ibot.eval.dense.segmentation.settings import (
    Architecture,
    Head,
    SegmentationSettings,
    by_architecture,
    published_settings,
)
from ibot.eval.features.views import evenly
from ibot.eval.request import Mode
from ibot.eval.segmented import SegmentedContext
from ibot.eval.tune.finetune import nearest_architecture
from ibot.models.contract import Backbone

LOOKED_AT = 64
"""Images whose sizes say how large those of a set are."""
PASSES = 127
"""Over the images of ADE20K in 160,000 steps of 16."""
LEAST_ITERATIONS = 500
LARGEST_CROP = 512
MAGNIFICATION = 512 / 224
"""Of the published crop over the size of the pre-training: further the position table is not
stretched."""
SMALL_SET_RATES: dict[Head, float] = {"linear": 1e-2, "upernet": 5e-4}
"""Learning rates of sets on which nobody chose one: those of few steps are higher."""
CELL_RATE = 3e-2
"""The same for standardised features of whole images."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings without `none`, and what to say of them."""

    settings: SegmentationSettings
    notes: tuple[str, ...] = ()


def plan(settings: SegmentationSettings, context: SegmentedContext) -> Plan:
    """The settings for the context's mode, network and images.

    Raises ConfigError for settings that contradict each other, a crop that does not fit the
    network, and a batch that the processes cannot share.
    """
    _check(settings)
    backbone = context.loaded.backbone
    architecture = architecture_of(backbone)
    asked = context.view.size if context.view.size != context.loaded.size else None
    if context.mode == "published" and settings.augment == "published":
        values = published_settings(settings.head, architecture)
    else:
        crop = fitted_crop(context.train, backbone, context.loaded.size)
        values = fitted_settings(settings, architecture, len(context.train))
        values["crop"] = crop
        if settings.augment == "none":
            values["lr"] = (CELL_RATE,)
    if asked:
        values["crop"] = max(asked) // backbone.patch_size * backbone.patch_size
    given = {name for name in values if getattr(settings, name) not in (None, ())}
    made = replace(settings, **{k: v for k, v in values.items() if k not in given})
    assert made.crop is not None and made.iterations is not None and made.batch is not None
    steps = -(-made.iterations // made.validations)
    made = replace(
        made,
        stride=made.stride or made.crop * 2 // 3,
        iterations=steps * made.validations,
        warmup=min(made.warmup or 0, steps * made.validations),
    )
    _check_fit(made, backbone, context.processes.world_size)
    seen = "whole images, the shorter side" if made.augment == "none" else "crops"
    note = f"{made.iterations} steps of {made.batch} images, {seen} of {made.crop} pixels"
    rates = " or ".join(f"{rate:g}" for rate in made.lr)
    return Plan(made, (f"{note}, learning rate {rates}; compared at the size of each image",))


class RateImages(NamedTuple):
    """Which training images are trained on, and where one of several learning rates is chosen."""

    fit: NDArray[np.int64]
    judge: NDArray[np.int64]
    """Empty: it is chosen on the validation images, if at all."""
    judged_on: str
    """In words."""


def rate_images(num_train: int, settings: SegmentationSettings, mode: Mode) -> RateImages:
    """In clean mode some training images, evenly spaced, are held out where a rate is chosen."""
    every = np.arange(num_train)
    if len(settings.lr) == 1 or mode == "published":
        return RateImages(every, every[:0], "val")
    if num_train < 2:  # nothing can be spared
        return RateImages(every, every, "the fitted image: there is one alone")
    count = min(max(1, round(settings.holdout * num_train)), num_train - 1)
    held = evenly(num_train, count)
    words = f"{count} held-out training image{'s' if count > 1 else ''}"
    return RateImages(np.setdiff1d(every, held), held, words)


def architecture_of(backbone: Backbone) -> Architecture:
    """Among the published ones the nearest in width; a network in stages is a Swin."""
    return "swin" if len(backbone.depths) > 1 else nearest_architecture(backbone.embed_dim)


def fitted_settings(
    settings: SegmentationSettings, architecture: Architecture, num_train: int
) -> dict[str, Any]:
    """A length that fits a set: as many passes as over ADE20K, but `LEAST_ITERATIONS` steps."""
    own = by_architecture(settings.head, architecture)
    batch = settings.batch or min(16, num_train)
    iterations = settings.iterations
    if iterations is None:
        iterations = min(160_000, max(LEAST_ITERATIONS, round(PASSES * num_train / batch)))
    return {
        "batch": batch,
        "iterations": iterations,
        "warmup": min(1500, iterations // 20),
        "lr": (SMALL_SET_RATES[settings.head],),
        "layer_decay": own.layer_decay,
        "drop_path": own.drop_path,
    }


def fitted_crop(train: LabelMaps, backbone: Backbone, trained: Sequence[int]) -> int:
    """A crop of at most the images' shorter side, `LARGEST_CROP`, and what the network bears.

    trained: height and width of the images that the network was trained on.
    """
    limit = min(shorter_side(train), LARGEST_CROP, round(MAGNIFICATION * min(trained)))
    patch = backbone.patch_size
    return max(2, limit // patch) * patch


def typical_shape(maps: LabelMaps, short: int, patch: int) -> tuple[int, int]:
    """Height and width of the set's median shape with a shorter side of `short` pixels.

    Both are multiples of `patch`.
    """
    sizes = np.array(_sizes(maps) or [(1, 1)], np.float64)
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    height, width = (short, short * aspect) if aspect >= 1 else (short / aspect, short)
    return max(1, round(height / patch)) * patch, max(1, round(width / patch)) * patch


def shorter_side(maps: LabelMaps) -> int:
    """The median of the shorter sides of some images in pixels; the largest crop without any."""
    sizes = _sizes(maps)
    return int(np.median(np.min(sizes, axis=1))) if sizes else LARGEST_CROP


def _sizes(maps: LabelMaps) -> list[tuple[int, int]]:
    """Height and width of some images; of those that cannot be read none."""
    sizes = []
    for index in evenly(len(maps), LOOKED_AT).tolist():
        with suppress(UnreadableImage):
            sizes.append(maps.size(index))
    return sizes


def _check(settings: SegmentationSettings) -> None:
    if settings.head == "upernet" and settings.augment == "none":
        raise ConfigError(
            "augment=none trains a linear head on features that stay", fix="head=linear"
        )
    if settings.features == "pixels" and settings.augment != "none":
        raise ConfigError("features=pixels needs augment=none", fix="augment=none")
    if settings.head == "upernet" and len(settings.lr) > 1:
        raise ConfigError(
            f"head=upernet is trained with one learning rate, not {len(settings.lr)}",
            why="below linear heads the network stays, so that many can be trained at once",
            fix=f"lr={settings.lr[0]:g}, and another run for each",
        )
    if len(set(settings.lr)) < len(settings.lr):
        raise ConfigError("lr names a rate twice", fix="each of them once")


def _check_fit(settings: SegmentationSettings, backbone: Backbone, world_size: int) -> None:
    crop, batch, patch = settings.crop, settings.batch, backbone.patch_size
    assert crop is not None and batch is not None and settings.stride is not None
    if crop % patch or crop < 2 * patch:
        raise ConfigError(
            f"crop={crop} does not fit a network with cells of {patch} pixels",
            why="it must be a multiple of them, at least two",
            fix=f"for example crop={max(2, round(crop / patch)) * patch}",
        )
    if settings.stride > crop:
        raise ConfigError(
            f"stride={settings.stride} leaves pixels between windows of {crop}",
            fix=f"stride={crop} at most",
        )
    if batch % world_size:
        raise ConfigError(
            f"{world_size} processes cannot share batch={batch} equally",
            fix=f"for example batch={-(-batch // world_size) * world_size}",
        )
    if settings.head == "upernet" and batch < 2:
        raise ConfigError(
            "batch=1 gives batch norm nothing to compare",
            fix="batch=2 at least",
        )
