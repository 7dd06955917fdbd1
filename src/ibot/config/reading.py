"""How images are read: the settings of `data`, and what of them serves without a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

RGB = ("red", "green", "blue")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of levels 0..1 in red, green, blue: what nearly every published network was trained with."""
MAX_PIXELS = 89_478_485
"""Larger images are refused from their header, unless asked for: a few bytes can declare
terabytes."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Which channels of images are read, and where they lie: `channels`, `channel_files` and
    `no_data` of `DataConfig`, for those who open images without a run.
    """

    names: str = "rgb"
    files: str = ""
    no_data: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    """Levels that stand where nothing was measured; empty: the mean of a sample of the data."""
    called: tuple[str, ...] = ()
    """Names by which a network knows the channels that a user chose for it, in the same order."""

    def of(self, channels: tuple[str, ...], mean: tuple[float, ...] = ()) -> Channels:
        """The same, of the channels that a network reads: by their names, with its mean, unless it
        reads colour pictures of 8 bits.
        """
        colour = channels == RGB and self.names == "rgb"
        return self if colour else replace(self, names=",".join(channels), mean=mean)


PICTURES = Channels()
"""Colour pictures of 8 bits."""


@dataclass(frozen=True, slots=True)
class Windows:
    """In which windows images are seen: `window`, `windows`, `window_content` of `DataConfig`."""

    side: int = 0
    """Pixels; 0: images are seen whole."""
    count: int = 0
    """Random windows in an epoch; 0: as many as cover the images once."""
    content: float = 0.0
    """Least share of tissue or valid pixels."""
    at: Literal["grid", "random"] = "grid"
    """Side by side over each image; or where chance has it, in other places each epoch."""


WHOLE = Windows()
"""Images are seen whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a set of images is opened: what a classifier keeps, so that new images are read like
    those it learnt from.
    """

    channels: Channels = PICTURES
    windows: Windows = WHOLE
    exif_orientation: Literal["apply", "ignore"] = "apply"
    max_pixels: int = MAX_PIXELS
    trim_border: bool = False
    """Whether a border of one colour is cut off."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where images come from and how a file becomes pixels."""

    path: str = ""
    """Images (`--data`): a folder, flat or nested, a list, tar or Parquet files, a folder of
    Hugging Face, .npy or zarr stacks, or NAME:DIR. With labels and a validation part (as `train/`
    and `val/` of class folders): a labelled set."""
    val_path: str = ""
    """Labelled images for k-NN during training (`--val-data`); empty: the validation part of
    `path`."""
    exif_orientation: Literal["apply", "ignore"] = "apply"
    """Turn pictures upright by their EXIF tag. The published loader ignores it (quirk Q2)."""
    max_pixels: int = field(default=MAX_PIXELS, repr=False)
    """Larger images are refused from their header: a small file can declare more than the memory
    holds."""
    max_bad_fraction: float = 0.2
    """Stop when more files than this share of all are unreadable; up to 20 never stop a run, unless
    they are half of all."""
    pixels: Literal["auto", "exact", "fast", "device"] = field(default="auto", repr=False)
    """How views are made of pictures: as Pillow does, bit by bit (exact); faster on the CPU, some
    grey levels off (fast); in batches on the training device, where loaders only decode (device).
    auto: device on a GPU, else fast; runs from before this setting stay exact."""
    trim_border: bool = field(default=False, repr=False)
    """Cut off a border of one colour, as scanners leave it."""
    channels: str = field(default="rgb", repr=False)
    """What is read of an image: colour pictures of 8 bits (rgb); every channel of the files in
    their own type (all); or some of those, by their names or numbers from 1, with commas."""
    channel_files: str = field(default="", repr=False)
    """Pattern of file names where each channel has a file: {name}_{channel}.tif."""
    no_data: tuple[float, ...] = field(default=(), repr=False)
    """Values that mean that nothing was measured, beside those that files declare; like numbers
    that are none they become the mean of their channel."""
    window: int = field(default=0, repr=False)
    """Side, in pixels, of the random windows that stand for images larger than memory; 0: images
    are read whole."""
    windows: int = field(default=0, repr=False)
    """Windows in an epoch; 0: as many as cover the images once."""
    window_content: float = field(default=0.0, repr=False)
    """Windows with a smaller share of tissue or valid pixels (0..1) are drawn anew."""

    @property
    def reading(self) -> Channels:
        """Which channels are read."""
        return Channels(self.channels, self.channel_files, self.no_data)

    @property
    def windowing(self) -> Windows:
        """The windows to train on."""
        return Windows(self.window, self.windows, self.window_content, "random")
