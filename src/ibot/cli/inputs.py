"""What the arguments of several commands name: network, images, view."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibot.data.sets.images import Images
    from ibot.weights.read import Loaded


def read_network(options: argparse.Namespace) -> Loaded:
    """The network that `add_network` names. Raises WeightsError."""
    from ibot.weights.read import load

    partial = options.allow_partial
    return load(options.weights, options.key, heads=options.heads, allow_partial=partial)


def read_images(options: argparse.Namespace) -> Images:
    """The images of `--data`, read as `add_weights` says. Raises DataError."""
    from ibot.data.sets.open import open_images

    orientation, most = options.exif_orientation, options.max_pixels
    return open_images(options.data, exif_orientation=orientation, max_pixels=most)


def view_size(options: argparse.Namespace, loaded: Loaded) -> tuple[int, int]:
    """Height and width of the view: those of `--size`, else those of the training."""
    return (options.size, options.size) if options.size else loaded.size
