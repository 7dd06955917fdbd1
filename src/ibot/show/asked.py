"""What `ibot show` is asked, whatever the picture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ibot.config.reading import MAX_PIXELS, PICTURES, Channels
from ibot.config.schema import Config
from ibot.data.decode import Orientation
from ibot.data.sets.windows import in_windows, seen_whole
from ibot.errors import WeightsError
from ibot.eval.request import Request, windows_of
from ibot.show.canvas import Format
from ibot.show.inputs import SHORT, Fit, Inputs, WholeView, open_inputs
from ibot.system.device import choose_device
from ibot.system.progress import Counter, counter, print_notes
from ibot.weights.read import Loaded, load, load_weights, reading_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A network, images, and how both are used: the options of `ibot show`, by the same names."""

    weights: str
    config: Config | None = None
    """Settings of a recipe, where one stands in the place of weights."""
    images: tuple[str, ...]
    out: Path
    """Folder for the pictures; it may not exist yet."""
    picture: str = ""
    """What is drawn, by its name in `show.pictures`."""
    note: str = ""
    """A line above it."""
    key: str = "teacher"
    heads: int | None = None
    """Attention heads of a ViT, if the weights do not say."""
    allow_partial: bool = False
    size: int = SHORT
    """Pixels of the shorter side; 0: as in training, where the picture says so."""
    fit: Fit = "keep"
    limit: int = 100
    """Images of a folder or another set; 0: all."""
    seed: int = 0
    format: Format = "png"
    exif_orientation: Orientation = "apply"
    max_pixels: int = MAX_PIXELS
    channels: str = ""
    """Channels that are read, by names or numbers; empty: the network's."""
    channel_files: str = ""
    """Pattern of file names where each channel has a file; empty: as in the training."""
    no_data: str = ""
    """Values that mean that nothing was measured; empty: those of the training."""
    device: str = "auto"
    quiet: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of the picture itself, by name with `_` for `-`."""

    @property
    def view(self) -> WholeView:
        """How the network sees images."""
        return WholeView(self.size, self.fit)

    @property
    def reading(self) -> Channels:
        """Which channels of images are read."""
        stored = PICTURES if self.config is None else self.config.data.reading
        if self.config is None:
            with suppress(WeightsError):  # which is told where the network is read
                stored = reading_of(load_weights(self.weights, self.key))
        asked = {name: getattr(self, name) for name in ("channels", "channel_files", "no_data")}
        return Request(weights=self.weights, **asked).with_reading(stored).reading

    def loaded(self) -> Loaded:
        """The network on its device. Raises WeightsError."""
        loaded = load(self.weights, self.key, heads=self.heads, allow_partial=self.allow_partial)
        return replace(loaded, backbone=loaded.backbone.to(choose_device(self.device)))

    def inputs(self, frames: bool = False) -> Inputs:
        """The images; what a user should know of them is said. Raises DataError.

        frames: those of a set in the order of the numbers in their names.
        """
        inputs = open_inputs(
            self.images,
            self.limit,
            frames=frames,
            seed=self.seed,
            exif_orientation=self.exif_orientation,
            max_pixels=self.max_pixels,
            channels=self.reading,
        )
        windows = windows_of(self.weights)
        whole = any(not in_windows(images) for images in inputs.sets)
        notes = list(inputs.notes)
        if whole and windows.side:
            how = "a name such as slide.svs#x=0,y=512,w=256,h=256 means one"
            notes.append(f"{seen_whole(windows)}: {how}")
        print_notes(notes, self.quiet)
        return inputs

    def counter(self, name: str) -> Counter:
        """Shows the progress of a part of the work, or nothing."""
        return None if self.quiet else counter(name)
