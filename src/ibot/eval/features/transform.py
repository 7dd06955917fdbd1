"""One image as a network takes it: for data sets of torchvision, and whatever else maps images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from ibot.config.reading import RGB
from ibot.data.decode import decode, pixels_of
from ibot.data.pixels import MEAN, STD, Pixels, Statistics, normalize
from ibot.data.sets.same_channels import named
from ibot.eval.features.views import View, planar, view_sized
from ibot.eval.linear_classifier import LinearClassifier
from ibot.weights.read import load


@dataclass(frozen=True, slots=True)
class Transform:
    """Images to inputs, as in evaluations; it can be pickled, so loader processes may use it."""

    view: View
    statistics: Statistics
    """Mean and deviation of each channel; of levels 0..1."""
    channels: tuple[str, ...] = RGB

    def __call__(self, image: Image.Image | Pixels | str | Path) -> Tensor:
        """The centre of an image, resized and normalised: float32 [C, h, w].

        Args:
            image: a picture of Pillow, which is turned upright by its EXIF tag, or the path of
                one; or pixels [H, W, 3] of bytes, [H, W, C] of float levels.

        Raises:
            ValueError: pixels of another shape or type than the network reads. UnreadableImage: a
                file without pixels, or a strip too thin to be cropped.
        """
        if isinstance(image, Image.Image | str | Path) and self.channels != RGB:
            raise ValueError(f"the network reads {named(self.channels)}: give levels [H, W, C]")
        if isinstance(image, Image.Image):
            pixels: Any = pixels_of(image)
        else:
            pixels = decode(image) if isinstance(image, str | Path) else np.asarray(image)
        kinds = (np.uint8, np.float32) if self.channels == RGB else (np.float32,)
        if pixels.shape[2:] != (len(self.channels),) or pixels.dtype not in kinds:
            raise ValueError(
                f"pixels {pixels.dtype} {pixels.shape} are no image of {named(self.channels)}: "
                "[H, W, C] of uint8 (0..255) or float32 (0..1)"
            )
        return normalize(planar([self.view.render(pixels)])[0], self.statistics)


def transform(
    network: nn.Module | LinearClassifier | str | Path, size: int | tuple[int, int] | None = None
) -> Transform:
    """What makes an image the input of a network, as evaluations see it.

        folder = torchvision.datasets.ImageFolder("photos", transform=ibot.transform("runs/photos"))

    Images of this size are taken as they are; others are resized (shorter side to 8/7 of the
    view's) and cropped at the centre, then normalised by the network's own mean and deviation.

    Args:
        network: a backbone, what `load_backbone` reads, or a classifier, whose view is kept.
        size: height and width of the view, or one number for both; None: as in training, where a
            path or a classifier says so.

    Raises:
        ValueError: a network that does not say its size, or sizes below 1.
        WeightsError: a path holds no backbone.
    """
    view = View((0, 0)) if size is None else view_sized(size)
    if isinstance(network, LinearClassifier):
        view = network.view if size is None else view
        network = network.backbone
    elif not isinstance(network, nn.Module):
        loaded = load(network)
        view = View(loaded.size) if size is None else view
        network = loaded.backbone
    if min(view.size) < 1:
        raise ValueError("a network does not say with which size it was trained: give size=")
    statistics = getattr(network, "statistics", (MEAN, STD))
    return Transform(view, statistics, getattr(network, "channels", RGB))
