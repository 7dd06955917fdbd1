"""Images that a picture is drawn of, and how a network sees them whole (spec_evaluation 10.1)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.config.reading import MAX_PIXELS, PICTURES, Channels
from ibot.data.annotated.pictures import pictures_of
from ibot.data.decode import Orientation, UnreadableImage
from ibot.data.false_colours import as_rgb
from ibot.data.pixels import Pixels, by_pillow, normalize
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_files, open_images
from ibot.data.sets.same_channels import named
from ibot.data.sets.several import grouped
from ibot.errors import DataError, UserError, printable
from ibot.models.contract import Backbone
from ibot.rng import permutation
from ibot.words import by_numbers, counted

log = logging.getLogger("ibot")

SHORT = 480
"""Pixels of the shorter side of a whole picture, and of both sides of a published one."""
MOST_TOKENS = 2**14
"""Of one picture: time grows with the square. Larger ones are reduced."""

Fit = Literal["keep", "squash", "natural"]


@dataclass(frozen=True, slots=True)
class WholeView:
    """How a network is given a whole image, nothing cut off."""

    short: int = SHORT
    """Pixels of the shorter side."""
    fit: Fit = "keep"
    """keep: the aspect, but that each side becomes the nearest multiple of the patch. squash: a
    square of `short`, as published, its remainder cut off. natural: the pixels that the image has,
    again to the nearest multiples."""

    def size(self, height: int, width: int, patch: int) -> tuple[int, int]:
        """Height and width of the view of an image: multiples of the patch, one at least.

        At most `MOST_TOKENS` patches: strips and huge images are reduced.
        """
        if self.fit == "squash":
            side = patch * max(1, min(self.short // patch, math.isqrt(MOST_TOKENS)))
            return side, side
        scale = 1.0 if self.fit == "natural" else self.short / min(height, width)
        rows, columns = scale * height / patch, scale * width / patch
        reduce = min(1.0, (MOST_TOKENS / (rows * columns)) ** 0.5)
        sides = [max(1, round(reduce * side)) for side in (rows, columns)]
        rows, columns = (min(side, MOST_TOKENS // min(sides)) for side in sides)
        return rows * patch, columns * patch

    def render(self, image: NDArray[Any], patch: int, channels: int = 0) -> Pixels:
        """An image [H, W], [H, W, C] of any levels (`show.colours`) as its view uint8 [h, w, 3].

        channels: of the network; float32 levels of as many become a view float32 [h, w, C].
        """
        own = image.dtype == np.float32 and image.shape[2:] == (channels,)
        pixels = image if own else as_rgb(image)
        height, width = self.size(pixels.shape[0], pixels.shape[1], patch)
        if self.fit == "squash":
            side = self.short if height <= self.short < height + patch else height
            kind, size = Image.Resampling.BILINEAR, (side, side)
            return by_pillow(pixels, lambda one: one.resize(size, kind))[:height, :width]
        if pixels.shape[:2] == (height, width):
            return pixels
        kind, size = Image.Resampling.BICUBIC, (width, height)
        return by_pillow(pixels, lambda one: one.resize(size, kind))


@dataclass(frozen=True, slots=True)
class Viewed:
    """One image that was read."""

    index: int
    """Its number among all that were named."""
    name: str
    pixels: Pixels
    """uint8 [H, W, 3], or float32 [H, W, C] levels of other channels, as they are in the file."""

    @property
    def shown(self) -> NDArray[np.uint8]:
        """The same in colours, uint8 [H, W, 3]; see `show.colours`."""
        return as_rgb(self.pixels)


@dataclass(slots=True)
class Inputs:
    """The images that a user named, read one after the other."""

    sets: Sequence[Images]
    chosen: NDArray[np.int64]
    """int64 [n], numbers among the images of all sets."""
    notes: tuple[str, ...] = ()
    """What a user should know of what was and was not taken, a sentence each."""
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    """(name, reason) by number of those that could not be read so far; they are not tried again."""

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Viewed]:
        """Those that can be read; the others are named in the log and in `bad`.

        Raises DataError at the end if there was none.
        """
        read = 0
        for index in self.chosen.tolist():
            if index in self.bad:
                continue
            images, number = self._place(index)
            try:
                pixels = images.read(number)
            except UnreadableImage as error:
                self.bad[index] = images.name(number), str(error)
                log.warning("passed over: %s: %s", printable(images.name(number)), error)
                continue
            read += 1
            yield Viewed(index, images.name(number), pixels)
        if not read:
            some = islice(self.bad.values(), 3)
            raise DataError(
                "none of the images can be read",
                why="; ".join(f"{printable(name)}: {reason}" for name, reason in some),
                fix="check the paths, or convert the files to JPEG or PNG",
            )

    def parts(self) -> Iterator[tuple[Images, NDArray[np.int64]]]:
        """Each set with the numbers, in it, of the images that were chosen."""
        start = 0
        for images in self.sets:
            own = self.chosen[(self.chosen >= start) & (self.chosen < start + len(images))]
            yield images, own - start
            start += len(images)

    def _place(self, index: int) -> tuple[Images, int]:
        for images in self.sets:
            if index < len(images):
                return images, index
            index -= len(images)
        raise IndexError(index)


def open_inputs(
    places: Sequence[str | Path],
    limit: int = 0,
    *,
    frames: bool = False,
    seed: int = 0,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = PICTURES,
) -> Inputs:
    """The images of files, folders and whatever else `data.sets.open` opens.

    Args:
        places: what a user names, in this order.
        limit: of a folder or another set so many images at most, drawn by `seed` (published: 100 or
            300, seed 0); 0: all. Files that are named one by one are all taken.
        frames: those of a set in the order of the numbers in their names, `frame 2` before
            `frame 10`; else in the set's own.
        seed: of that choice.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.
        channels: which are read.

    Raises:
        DataError: nothing is named, or a set is missing or empty.
    """
    sets: list[Images] = []
    chosen: list[NDArray[np.int64]] = []
    notes: list[str] = []
    start = 0
    how: Any = {
        "exif_orientation": exif_orientation,
        "max_pixels": max_pixels,
        "channels": channels,
    }
    for kind, texts in grouped([str(text) for text in places], channels):
        if kind != "set":
            images = open_files(texts, **how)
            taken = np.arange(len(images))
        else:
            images = open_images(pictures_of(texts[0]), **how)
            notes += images.notes
            taken = permutation(seed, 0, len(images))[: limit or None]
            if len(taken) < len(images):
                of = f"{len(taken)} of the {len(images)} images in '{printable(texts[0])}'"
                notes.append(f"{of} are taken, drawn by seed {seed}: --limit and --seed say which")
        sets.append(images)
        order = np.sort(taken)
        if frames and kind == "set":
            order = np.array(sorted(taken.tolist(), key=lambda i: by_numbers(images.name(i))))
        chosen.append(start + order)
        start += len(images)
    if not sets:
        raise DataError("no images named", fix="name files or a folder behind the weights")
    return Inputs(sets, np.concatenate(chosen), tuple(notes))


def network_input(view: Pixels, backbone: Backbone) -> Tensor:
    """A view [h, w, C] as the network takes it: normalised float32 [1, C, h, w].

    On the device and of the type of the network's parameters. Raises UserError for another number
    of channels than the network's.
    """
    if view.shape[2] != len(backbone.channels):
        raise UserError(
            f"the network reads {named(backbone.channels)}",
            why=f"the image has {counted(view.shape[2], 'channel')}",
            fix="name images of those channels",
        )
    parameter = next(backbone.parameters())
    pixels = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
    return normalize(pixels.to(parameter.device), backbone.statistics).to(parameter.dtype)


def check_folder(out: Path) -> Path:
    """The folder that pictures are written to. Raises UserError where a file stands there."""
    for place in (out, *out.parents):
        if place.exists():
            if place.is_dir():
                return out
            raise UserError(f"'{place}' is a file", fix="name a folder with --out")
    return out
