"""What a user asks of any evaluation, with its defaults; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ibot.config.schema import MAX_PIXELS

FEATURE_CACHE = "~/.cache/ibot/features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A network, its images, and how both are used: the options of `ibot eval`, by the same names.

    Settings of the evaluation itself are given apart.
    """

    weights: str
    """A run, a checkpoint folder or a file of weights."""
    data: str = ""
    """Images; see `ibot.data.sets.open`."""
    val_data: str = ""
    """Images to be judged on, where `data` has none."""
    split: float = 0.0
    """Share of the images to set aside for that, 0..1; 0: none."""
    max_train: int = 0
    """Use so many evenly spaced training images; 0: all."""
    max_val: int = 0
    """The same for the images to be judged on."""
    mode: Literal["clean", "published"] = "clean"
    """Choose on held-out training images, or as the paper's tables on the split that is reported.
    """
    key: str = "teacher"
    """Which network of the weights."""
    heads: int | None = None
    """Attention heads of a ViT, if the weights do not say."""
    allow_partial: bool = False
    """Accept missing and unused tensors."""
    size: int = 0
    """Pixels of the square view; 0: as in training."""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """How images of another shape become square."""
    exif_orientation: Literal["apply", "ignore"] = "apply"
    """Whether pictures are turned upright by their EXIF tag."""
    max_pixels: int = MAX_PIXELS
    """Larger images are not read."""
    seed: int = 0
    """Of splits, starts and orders."""
    device: str = "auto"
    workers: int = 0
    """Processes that decode images."""
    out: str = ""
    """Folder for records and states to resume from; empty: the run's, else results/NAME."""
    cache: str = FEATURE_CACHE
    """Folder of features, shared by all evaluations."""
