"""How an image becomes the input of an evaluation (spec_evaluation 8.0)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ibot.data.decode import UnreadableImage
from ibot.data.pixels import evaluation_view, shorter_side
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
    without regard to the aspect; or resize until all of it fits and fill the rest with black; or
    reduce larger images until they fit, and leave all with a shape of their own."""
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    resize: int = 0
    """Pixels of the shorter side before the crop; 0: 8/7 of the view's."""
    keep: bool = True
    """Images of this size are taken as they are. False, as published: they are resized too."""

    @property
    def varies(self) -> bool:
        """Whether images keep shapes of their own, so that they cannot share a batch."""
        return self.fit == "within"

    def render(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[H, W, 3] -> [h, w, 3]. Raises UnreadableImage for a strip too thin to be cropped."""
        if self.keep and image.shape[:2] == self.size:
            return image
        resample = _RESAMPLE[self.interpolation]
        if self.fit == "within":
            reduced = Image.fromarray(image)
            reduced.thumbnail((self.size[1], self.size[0]), resample)
            return np.asarray(reduced)
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
        resized = np.asarray(Image.fromarray(image).resize((width, height), resample))
        padded = np.zeros((*self.size, 3), np.uint8)
        top, left = (self.size[0] - height) // 2, (self.size[1] - width) // 2
        padded[top : top + height, left : left + width] = resized
        return padded

    def enlarged(self, image: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
        """What `render` shows, `times` as many pixels a side, for pictures: [H, W, 3] -> [t * h,
        t * w, 3].

        They are made of the image itself, which often has more to show than the view. Raises
        UnreadableImage as `render` does.
        """
        kept = self.keep and image.shape[:2] == self.size
        if times == 1:
            return self.render(image)
        if kept or self.fit == "within":
            height, width = self.render(image).shape[:2]
            whole = Image.fromarray(image).resize(
                (times * width, times * height), _RESAMPLE[self.interpolation]
            )
            return np.asarray(whole)
        size = times * self.size[0], times * self.size[1]
        resize = times * (self.resize or shorter_side(self.size))
        return replace(self, size=size, resize=resize, keep=False).render(image)


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Some images as the network gets them."""

    positions: NDArray[np.int64]
    """int64 [b], which of the images asked for were read."""
    views: Tensor
    """uint8 [b, 3, h, w]."""
    bad: list[tuple[int, str]]
    """(position, reason) of those that cannot be read."""


def view_batches(
    images: Images, view: View, batches: Sequence[NDArray[np.int64]], workers: int = 0
) -> Iterator[ViewBatch]:
    """The images whose numbers stand in `batches`, in order; positions are those numbers."""
    num_bytes = 3 * math.prod(view.size) * max(map(len, batches), default=0)
    yield from read_items(_Views(images, view, batches), workers, num_bytes, batch_size=None)


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
        stacked = np.stack(views) if views else np.zeros((0, *self.view.size, 3), np.uint8)
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
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
