"""Settings of segmentation and the published recipes (spec_evaluation 8.10, 8.11).

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ibot.config.ranges import Range, check_ranges
from ibot.errors import ConfigError

Head = Literal["linear", "upernet"]
Architecture = Literal["small", "base", "large", "swin"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationSettings:
    """How a segmentation head is trained and tested.

    What is `none` or empty follows from the head, the network and the images: in published mode
    what the paper's tables were made with, else what fits the set (`plan`).
    """

    head: Head = "linear"
    """A 1 x 1 convolution on the frozen network (8.10), or UPerNet, which trains it (8.11)."""
    augment: Literal["published", "none"] = "published"
    """Scaled, cropped, flipped and distorted images, or the cached features of whole images: far
    faster, linear head alone, another protocol."""
    features: Literal["network", "pixels"] = "network"
    """What augment=none reads: the network's maps, or the raw pixels of each of its cells."""
    iterations: int | None = None
    """Optimizer steps. Published: 160,000."""
    batch: int | None = None
    """Images per step over all processes. Published: 16."""
    validations: int = 1
    """Times that the validation images are scored, evenly spaced; the last one is reported."""
    crop: int | None = None
    """Side in pixels of what the network sees. Published: 512."""
    stride: int | None = None
    """Pixels between the windows of a test; none: two thirds of the crop."""
    scale: Literal["short", "pixels"] = "short"
    """Images are resized until the shorter side has the crop's pixels, or keep their own pixels,
    for images whose scale means something (microscopes, satellites)."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Range of the factor by which training images are scaled beyond that."""
    multi_scale: bool = False
    """Test at six scales and mirrored (8.11), in place of one."""
    lr: tuple[float, ...] = ()
    """Learning rate of head and last layers at the end of the warm-up, whatever the batch. With
    several a linear head is trained for each on the same steps, and one is chosen."""
    holdout: float = 0.1
    """Share of the training images on which one of several rates is chosen in clean mode."""
    micro_batch: int = 0
    """Most images of a process at a time through the network; 0: all of its share of a step."""
    warmup: int | None = None
    """Steps of linear warm-up. Published: 1,500."""
    layer_decay: float | None = None
    """Factor of the rate from each block to the one below it (head=upernet)."""
    weight_decay: float = 0.05
    """AdamW's; not for vectors and biases."""
    drop_path: float | None = None
    """Stochastic depth of the last block (head=upernet)."""
    channels: int = 0
    """Width of UPerNet; 0: that of the network's tokens, as published."""
    classes: str = ""
    """A file that names the classes; empty: the one beside the images, else they are counted."""
    ignore: tuple[int, ...] = ()
    """Label values to leave out of loss and score; empty: what the file of classes says, or 255."""
    checkpointing: bool = False
    """Compute the network's blocks again in the backward pass: less memory, the same numbers."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the matrix products; auto: bfloat16 on a GPU where it is native, else float32.
    Published: float16."""
    checkpoint_steps: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a number with which nothing can be trained."""
        check_ranges(self, _RANGES, "trained")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(
                f"ratio={self.ratio[0]},{self.ratio[1]} is no range", fix="for example ratio=0.5,2"
            )


_RANGES: tuple[Range, ...] = (
    (("iterations", "batch", "crop", "stride", "validations"), "at least 1", lambda v: v >= 1),
    (("lr", "layer_decay"), "above 0", lambda v: v > 0),
    (("holdout",), "above 0 and below 1", lambda v: 0 < v < 1),
    (("drop_path",), "at least 0 and below 1", lambda v: 0 <= v < 1),
    (
        ("warmup", "weight_decay", "channels", "checkpoint_steps", "micro_batch"),
        "at least 0",
        lambda v: v >= 0,
    ),
)


class Published(NamedTuple):
    """What the paper's tables differ in."""

    lr: tuple[float, ...]
    layer_decay: float
    drop_path: float


LINEAR_RATES = (3e-5, 8e-5, 1e-4, 3e-4, 8e-4)
"""Among which the paper chooses that of the linear head, on the validation images (8.10)."""
UPERNET: Mapping[Architecture, Published] = {
    "small": Published((3e-5,), 0.9, 0.1),
    "base": Published((8e-5,), 0.65, 0.1),
    "large": Published((2e-5,), 0.95, 0.2),
    "swin": Published((1e-4,), 1.0, 0.2),
}
"""8.11. Of Swin there is none: its values are those of 8.9.6."""


def by_architecture(head: Head, architecture: Architecture) -> Published:
    """The values for a head on a network; below a linear head no layer is trained."""
    return UPERNET[architecture] if head == "upernet" else Published(LINEAR_RATES, 1.0, 0.0)


def published_settings(head: Head, architecture: Architecture) -> dict[str, Any]:
    """ADE20K's values of all that may be `none`.

    The 320,000 half batches of the large network are 160,000 steps too (`micro_batch` halves them).
    """
    return {
        "iterations": 160_000,
        "batch": 16,
        "crop": 512,
        "warmup": 1500,
        **by_architecture(head, architecture)._asdict(),
    }
