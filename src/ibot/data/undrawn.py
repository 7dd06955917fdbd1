"""Pictures on their way to the device that makes their views: packed, large ones made smaller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ibot.config.reading import PICTURES, RGB
from ibot.config.schema import Config
from ibot.data.decode import UnreadableImage
from ibot.data.params import num_views, view_params, view_size
from ibot.data.sets.images import Images, Pixels
from ibot.types import ViewParams

GAP = 3
"""A picture is made smaller only so far that every view still shrinks it by this: what antialiasing
does then hides the way that it came (Pillow's `reducing_gap`)."""
SIZED = 64
"""Headers that are read to know how large pictures are."""


class Together:
    """Memory in which the pictures of a batch are read, one after the other as they will travel."""

    def __init__(self, most: int) -> None:
        """`most` pixels; what is not written to takes no memory."""
        self._pixels = np.empty((most, len(RGB)), np.uint8)
        self._offered: NDArray[np.uint8] | None = None
        self._pictures = self._end = 0

    def room(self, height: int, width: int) -> NDArray[np.uint8] | None:
        """Memory [H, W, 3] after the pictures that were taken; None where too little is left."""
        end = self._end + height * width
        if end > len(self._pixels):
            return None
        self._offered = self._pixels[self._end : end].reshape(height, width, len(RGB))
        return self._offered

    def take(self, picture: Pixels) -> None:
        """Add the next picture: where it was read, or copied there if it lies elsewhere."""
        if picture.dtype != np.uint8 or picture.shape[2] != len(RGB):
            return
        if picture is not self._offered:
            place = self.room(*picture.shape[:2])
            if place is None:
                return
            place[...] = picture
        self._end += picture.shape[0] * picture.shape[1]
        self._pictures += 1

    def taken(self, pictures: int) -> NDArray[np.uint8] | None:
        """Pixels [P, 3] of all `pictures` of a batch; None where some found no room."""
        return self._pixels[: self._end] if self._pictures == pictures else None


def packed(
    images: Sequence[Pixels], params: ViewParams, config: Config, together: Together | None = None
) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of images [H, W, C] as they travel: one after the other, row by row.

    together: where they lie so already, if there was room; of use where none is made smaller.
    Returns uint8 or float32 [P, C]; int64 [B, 2], their sizes; and int64 [B], by how much each was
    made smaller than what its boxes are measured in. Only colour pictures of bytes are.
    """
    factors = reductions(params, config)
    if images[0].dtype != np.uint8:
        factors = np.ones_like(factors)
    there = None if together is None or factors.max() > 1 else together.taken(len(images))
    if there is not None:
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        return torch.from_numpy(there), sizes, factors
    smaller = [
        image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))
        for image, factor in zip(images, factors.tolist(), strict=True)
    ]
    channels = smaller[0].shape[-1]
    pixels = np.concatenate([image.reshape(-1, channels) for image in smaller])
    sizes = np.array([image.shape[:2] for image in smaller], dtype=np.int64)
    return torch.from_numpy(pixels), sizes, factors


def reductions(params: ViewParams, config: Config) -> NDArray[np.int64]:
    """Whole factors [B] by which pictures may be made smaller before their views are."""
    views = range(num_views(config.augment))
    sides = np.array([view_size(config.augment, view) for view in views])
    shrinking = (params.box[..., 2:] / sides).min(axis=(1, 2))
    return np.maximum(1, np.floor(shrinking / GAP)).astype(np.int64)


def most_bytes(source: Images, images: int, config: Config) -> int:
    """Bytes of so many pictures as they travel, hardly ever more.

    By the headers of some, with boxes drawn for them: the mean and four deviations of a sum, but
    not more than if all were as the largest.
    """
    sizes = []
    chosen = np.linspace(0, len(source) - 1, min(SIZED, len(source))).astype(np.int64)
    for index in chosen.tolist():
        with suppress(UnreadableImage):
            sizes.append(source.size(index))
    if not sizes:
        return 0
    drawn = np.array(sizes, dtype=np.int64)
    counts = drawn.prod(axis=1).astype(np.float64)
    if config.data.reading == PICTURES:
        params = view_params(config.augment, config.train.seed, 0, np.arange(len(drawn)), drawn)
        factors = reductions(params, config)
        counts = np.ceil(drawn / factors[:, None]).prod(axis=1)
    usual = images * counts.mean() + 4 * math.sqrt(images) * counts.std()
    return bytes_per_pixel(source, config) * math.ceil(min(usual, images * counts.max()))


def bytes_per_pixel(source: Images, config: Config) -> int:
    """Of what is read: bytes of colour pictures, floats of other channels."""
    return len(source.channels) * (1 if config.data.reading == PICTURES else 4)
