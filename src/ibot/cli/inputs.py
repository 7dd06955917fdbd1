"""What the arguments of several commands name: network, images, view."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibot.data.sets.scan import ImageSource
    from ibot.weights.read import Loaded


def read_network(options: argparse.Namespace) -> Loaded:
    """The network that `add_network` names. Raises WeightsError."""
    from ibot.weights.read import load

    partial = options.allow_partial
    return load(options.weights, options.key, heads=options.heads, allow_partial=partial)


def read_images(options: argparse.Namespace) -> ImageSource:
    """The images of `--data` for the network of `add_weights`. Raises DataError."""
    from ibot.data.sets.scan import scan

    orientation, most = options.exif_orientation, options.max_pixels
    return replace(scan(options.data), exif_orientation=orientation, max_pixels=most)


def view_size(options: argparse.Namespace, loaded: Loaded) -> tuple[int, int]:
    """Height and width of the view: those of `--size`, else those of the training."""
    return (options.size, options.size) if options.size else loaded.size
