"""Settings of detection and the published recipes (spec_evaluation 8.9). Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ibot.config.ranges import Range, check_ranges
from ibot.eval.tune.settings import Architecture

Policy = Literal["published", "resize", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionSettings:
    """How a backbone and a cascade of heads are trained and tested.

    The defaults are ViT-S/16 on COCO. On a set of less than some thousand images count in `steps`.
    """

    epochs: int = 12
    """Passes over the training images."""
    steps: int = 0
    """Optimizer steps in place of passes; 0: those of `epochs`."""
    drops: tuple[int, ...] = (8, 11)
    """Epochs, from 0, at whose begin the rate becomes a tenth; with `steps` their share counts."""
    batch: int = 32
    """Images per optimizer step over all processes."""
    micro_batch: int = 4
    """Most images per forward pass; batch norm of one process sees so many."""
    lr: float = 1e-4
    """Rate of the fresh layers; not scaled with the batch."""
    warmup_steps: int | None = None
    """Steps of linear warm-up from a thousandth of the rate; none: 500, in clean mode at most a
    tenth of all."""
    layer_decay: float = 0.8
    """Factor of the rate from each block to the one below it; 1: the same rate for all."""
    weight_decay: float = 0.05
    """AdamW's."""
    drop_path: float = 0.1
    """Stochastic depth of the last block; grows linearly from 0."""
    short: int = 800
    """Pixels of the shorter side in tests; the sizes of the training follow it."""
    long: int = 1333
    """Most pixels of the longer side."""
    policy: Policy = "published"
    """Training sizes. published: shorter sides of 0.6 to 1 times `short`, half of the images
    cropped before; resize: not cropped; none: the size of the tests."""
    flip: float = 0.5
    """Probability that a training image is mirrored."""
    table: tuple[int, int] = (800, 1008)
    """Image size to which the position table is resampled before the training; 0,0: as it is."""
    channels: int = 256
    """Of the maps and the convolutions of the heads."""
    hidden: int = 1024
    """Width of the box heads' hidden layer."""
    norm: Literal["batch", "group"] = "batch"
    """Of the box heads; group: not published, for micro-batches of one or two."""
    proposals: int = 2000
    """Boxes proposed per image in training."""
    test_proposals: int = 1000
    """The same in tests."""
    anchors: int = 256
    """Anchors sampled per image for the loss of the proposals."""
    samples: int = 512
    """Boxes sampled per image for the losses of each stage."""
    masks: bool = True
    """Train mask heads, where the set has masks."""
    checkpointing: bool = True
    """Compute the backbone's blocks again in the backward pass: less memory, the same numbers."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the matrix products; auto: bfloat16 on a GPU where it is native, else float32.
    Published: float16."""
    checkpoint_steps: int = 500
    """Optimizer steps between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a number with which nothing can be trained."""
        check_ranges(self, _RANGES, "trained")


WARMUP_STEPS = 500
"""Published."""

_RANGES: tuple[Range, ...] = (
    (
        (
            *("epochs", "batch", "micro_batch", "hidden", "proposals", "test_proposals"),
            *("anchors", "samples"),
        ),
        "at least 1",
        lambda value: value >= 1,
    ),
    (("short", "long"), "at least 32", lambda value: value >= 32),
    (("channels",), "a multiple of 32", lambda value: value > 0 and value % 32 == 0),
    (("lr", "layer_decay"), "above 0", lambda value: value > 0),
    (("drop_path",), "at least 0 and below 1", lambda value: 0 <= value < 1),
    (("flip",), "between 0 and 1", lambda value: 0 <= value <= 1),
    (
        ("steps", "warmup_steps", "weight_decay", "checkpoint_steps"),
        "at least 0",
        lambda value: value >= 0,
    ),
)

LEAST_STEPS = 3000
"""Of a training on a small set: passes over few images are soon over (8.9)."""
_BASE_WIDTH = 384
"""Of the narrowest published network, for which the heads were chosen."""
_SIZE = 224
"""Pixels of the published pre-training, for which the sizes were chosen."""


def published_settings(architecture: Architecture, in_stages: bool) -> DetectionSettings:
    """The recipe of COCO; Swin of `in_stages`. What was not published for large is that of base."""
    small = architecture == "small"
    if in_stages:
        return DetectionSettings(
            epochs=36,
            drops=(27, 33),
            batch=16,
            micro_batch=2,
            layer_decay=1.0,
            drop_path=0.2 if small else 0.3,
            table=(0, 0),
        )
    if small:
        return DetectionSettings()
    return DetectionSettings(
        batch=16, micro_batch=2, layer_decay=0.75, drop_path=0.2, table=(672, 1092)
    )


def own_settings(
    published: DetectionSettings, *, num_images: int, size: int, width: int
) -> DetectionSettings:
    """A recipe for one's own images, in proportion to the network.

    Inputs are as much larger than those of the pre-training as published; narrow networks get
    narrow heads; a set for which the published passes are less than `LEAST_STEPS` steps gets those.

    Args:
        published: the recipe of the nearest architecture.
        num_images: to train on.
        size: pixels of the pre-training.
        width: of the network's output.
    """
    short = min(published.short, max(96, 32 * round(size * published.short / _SIZE / 32)))
    share = short / published.short
    channels = min(published.channels, max(32, 32 * round(width / _BASE_WIDTH * 8)))
    few = published.epochs * num_images < LEAST_STEPS * published.batch
    return replace(
        published,
        steps=LEAST_STEPS if few else 0,
        batch=8 if few else published.batch,
        micro_batch=8 if few else published.micro_batch,
        short=short,
        long=round(published.long * share),
        table=(short, 32 * round(1.26 * short / 32)) if any(published.table) else (0, 0),
        channels=channels,
        hidden=4 * channels,
        proposals=max(200, round(published.proposals * share)),
        test_proposals=max(200, round(published.test_proposals * share)),
        samples=max(64, round(published.samples * share)),
    )
