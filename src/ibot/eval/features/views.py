"""How an image becomes the input of an evaluation (spec_evaluation 8.0)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ibot.config.reading import RGB
from ibot.data.decode import UnreadableImage
from ibot.data.pixels import Pixels, by_pillow, evaluation_view, shorter_side
from ibot.data.sets.images import Images
from ibot.data.workers import read_items

S = TypeVar("S", bound=Sized)

MAX_ASPECT = 50
"""An image with sides of a larger ratio is not cropped: before the crop it would take some 65 times
the view's pixels, and a strip of a few lines would fill the memory."""
_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class View:
    """Size of the input and how others get it; the default at 224 is VAL224 of the paper."""

    size: tuple[int, int]
    """Height and width in pixels."""
    fit: Literal["crop", "squash", "pad", "within"] = "crop"
    """Crop the centre of an image whose shorter side was resized to 8/7 of the view's; or resize
    without regard to the aspect; or resize until all of it fits and fill the rest with black, of
    float levels with the image's mean of each channel; or reduce larger images until they fit, and
    leave all with a shape of their own."""
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    resize: int = 0
    """Pixels of the shorter side before the crop; 0: 8/7 of the view's."""
    keep: bool = True
    """Images of this size are taken as they are. False, as published: they are resized too."""

    @property
    def varies(self) -> bool:
        """Whether images keep shapes of their own, so that they cannot share a batch."""
        return self.fit == "within"

    def render(self, image: Pixels) -> Pixels:
        """[H, W, C] -> [h, w, C]: bytes of colour pictures, float levels of other channels.

        Raises UnreadableImage for a strip too thin to be cropped.
        """
        if self.keep and image.shape[:2] == self.size:
            return image
        resample = _RESAMPLE[self.interpolation]
        if self.fit == "within":
            return by_pillow(image, partial(_reduced, size=self.size, resample=resample))
        if self.fit == "crop":
            resize = self.resize or shorter_side(self.size)
            short, long = sorted(image.shape[:2])
            if long > MAX_ASPECT * short:
                raise UnreadableImage(
                    f"too thin to crop: {image.shape[1]} x {image.shape[0]} pixels"
                )
            return evaluation_view(image, resize, self.size, resample)
        height, width = self.size
        if self.fit == "pad":
            scale = min(height / image.shape[0], width / image.shape[1])
            height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        resized = by_pillow(image, lambda picture: picture.resize((width, height), resample))
        if resized.shape[:2] == self.size:
            return resized
        padded = np.empty((*self.size, image.shape[2]), image.dtype)
        # Zero is black, but no level of its own where it may lie outside of all that was measured.
        padded[:] = 0 if image.dtype == np.uint8 else resized.mean(axis=(0, 1))
        top, left = (self.size[0] - height) // 2, (self.size[1] - width) // 2
        padded[top : top + height, left : left + width] = resized
        return padded

    def enlarged(self, image: Pixels, times: int) -> Pixels:
        """What `render` shows, `times` as many pixels a side, for pictures: [H, W, C] -> [t * h,
        t * w, C].

        They are made of the image itself, which often has more to show than the view. Raises
        UnreadableImage as `render` does.
        """
        kept = self.keep and image.shape[:2] == self.size
        if times == 1:
            return self.render(image)
        if kept or self.fit == "within":
            height, width = self.render(image).shape[:2]
            large, resample = (times * width, times * height), _RESAMPLE[self.interpolation]
            return by_pillow(image, lambda picture: picture.resize(large, resample))
        size = times * self.size[0], times * self.size[1]
        resize = times * (self.resize or shorter_side(self.size))
        return replace(self, size=size, resize=resize, keep=False).render(image)


def view_sized(size: int | tuple[int, int]) -> View:
    """The view of a height and width, or of one number for both."""
    return View((size, size) if isinstance(size, int) else (size[0], size[1]))


def _reduced(
    picture: Image.Image, size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Until it fits into `size` (height, width), its shape kept; small ones stay."""
    picture.thumbnail((size[1], size[0]), resample)
    return picture


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Some images as the network gets them."""

    positions: NDArray[np.int64]
    """int64 [b], which of the images asked for were read."""
    views: Tensor
    """uint8 [b, 3, h, w] of colour pictures, float32 [b, C, h, w] of other channels."""
    bad: list[tuple[int, str]]
    """(position, reason) of those that cannot be read."""


def view_batches(
    images: Images, view: View, batches: Sequence[NDArray[np.int64]], workers: int = 0
) -> Iterator[ViewBatch]:
    """The images whose numbers stand in `batches`, in order; positions are those numbers."""
    num_bytes = view_bytes(images.channels, view.size) * max(map(len, batches), default=0)
    yield from read_items(_Views(images, view, batches), workers, num_bytes, batch_size=None)


def view_bytes(channels: Sequence[str], size: tuple[int, int]) -> int:
    """Bytes of a view of images of these channels; of red, green and blue, which may be bytes or
    floats, as of bytes: read ahead is little more then.
    """
    return len(channels) * math.prod(size) * (1 if tuple(channels) == RGB else 4)


def no_views(channels: Sequence[str], size: tuple[int, int]) -> Tensor:
    """A batch of no view [0, C, h, w]."""
    kind = torch.uint8 if tuple(channels) == RGB else torch.float32
    return torch.zeros(0, len(channels), *size, dtype=kind)


def planar(views: Sequence[Pixels]) -> Tensor:
    """Views [h, w, C] as one batch [b, C, h, w] of the same type."""
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()


class _Views(Dataset[ViewBatch]):
    def __init__(self, images: Images, view: View, batches: Sequence[NDArray[np.int64]]) -> None:
        self.images, self.view, self.batches = images, view, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> ViewBatch:
        positions, views, bad = [], [], []
        for index in self.batches[number].tolist():
            try:
                views.append(self.view.render(self.images.read(index)))
                positions.append(index)
            except UnreadableImage as error:
                bad.append((index, str(error)))
        nothing = no_views(self.images.channels, self.view.size)
        pixels = planar(views) if views else nothing
        return ViewBatch(np.array(positions, np.int64), pixels, bad)


def evenly(count: int, limit: int) -> NDArray[np.int64]:
    """Numbers of at most `limit` of `count` images, evenly spaced."""
    return np.linspace(0, count - 1, min(count, limit)).astype(np.int64)


def at_most(images: S, limit: int, taken: Callable[[NDArray[np.int64]], S]) -> S:
    """At most `limit` images, evenly spaced, of which `taken` makes a set; 0: all."""
    if not limit or limit >= len(images):
        return images
    return taken(evenly(len(images), limit))


def in_batches(indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Consecutive pieces of at most `size`."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]
