"""From an image and its label map to what a step trains on (spec_evaluation 8.11).

Everything is drawn from the seed, the step, the image and its place in the batch: whoever draws it,
in whatever order, gets the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ibot.data.annotated.label_coding import IGNORED
from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.decode import UnreadableImage
from ibot.errors import DataError
from ibot.eval.dense.rescale import (
    opencv,
    rescaled_size,
    resize_bilinear,
    resize_nearest,
    to_input,
)
from ibot.eval.dense.segmentation.schedule import Sample
from ibot.rng import Purpose, uniform

CROP_DRAWS = 10
"""Places tried for a crop that holds several classes."""
MAX_SHARE = 0.75
"""Of the pixels of a crop that one class should cover."""
LONG = 4
"""The longer side has at most so many times the pixels of the shorter one."""
REPLACEMENTS = 100
"""Unreadable images in a row after which the set is taken for broken."""
Statistics = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are changed."""

    crop: int
    """Side in pixels."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Range of the scale."""
    fixed: bool = False
    """Scale an image's own pixels, not its shorter side to the crop."""


class TrainingSample(NamedTuple):
    """One augmented image."""

    image: Tensor
    """float32 [3, S, S], normalised; 0 beyond the image."""
    labels: Tensor
    """int16 [S, S]; `IGNORED` beyond the image."""
    bad: list[tuple[int, str]]
    """(image, reason) of those that could not be read on the way to this one."""


def scaled_size(height: int, width: int, short: int, ratio: float, fixed: bool) -> tuple[int, int]:
    """Size of an image at a scale.

    The shorter side becomes `ratio` times `short` pixels, and the longer one at most `LONG` times
    that; `fixed`: both sides grow by `ratio`.
    """
    if fixed:
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
    return rescaled_size(height, width, long=int(LONG * short * ratio), short=int(short * ratio))


def augmented(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int16],
    how: Augmentation,
    seed: int,
    sample: Sample,
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """A scaled, cropped, flipped and distorted piece of at most crop x crop pixels.

    pixels uint8 [H, W, 3] and labels int16 [H, W] of one size. Raises MissingExtra without OpenCV.
    """
    count = 2 + 2 * CROP_DRAWS
    drawn = uniform(
        seed, sample.step, sample.index, sample.place, Purpose.SEGMENT_VIEW, count
    ).tolist()
    low, high = how.ratio
    ratio = low + (high - low) * drawn[0]
    size = scaled_size(labels.shape[0], labels.shape[1], how.crop, ratio, how.fixed)
    labels = resize_nearest(labels, size)
    place = crop_place(labels, how.crop, np.reshape(drawn[2:], (CROP_DRAWS, 2)))
    pixels = resize_bilinear(pixels, size)[place]
    labels = labels[place]
    if drawn[1] < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    numbers = uniform(
        seed, sample.step, sample.index, sample.place, Purpose.SEGMENT_COLOUR, NUM_DISTORTIONS
    )
    # A copy where it is a view of the image as it was read, which may not be written to.
    own = np.require(pixels, requirements=["C", "W"])
    return distorted(own, numbers.tolist()), labels


def crop_place(
    labels: NDArray[np.int16], side: int, draws: NDArray[np.float64]
) -> tuple[slice, slice]:
    """Rows and columns of a crop: the first drawn one with several classes, none of them too large.

    labels int16 [H, W]. draws [n, 2], numbers in [0, 1) for top and left; where none of these
    crops holds several classes, as in most places of a binary mask, the last one is taken.
    """
    space = [max(length - side, 0) for length in labels.shape]
    place = slice(0, side), slice(0, side)
    for draw in draws:
        top, left = (int(u * (room + 1)) for u, room in zip(draw, space, strict=True))
        place = slice(top, top + side), slice(left, left + side)
        if not any(space):
            break
        found = labels[place]
        counts = np.bincount(found[found >= 0])
        if np.count_nonzero(counts) > 1 and counts.max() < MAX_SHARE * counts.sum():
            break
    return place


NUM_DISTORTIONS = 9
"""Numbers that `distorted` reads."""


def distorted(image: NDArray[np.uint8], numbers: Sequence[float]) -> NDArray[np.uint8]:
    """Photometric distortion of RGB uint8 [H, W, 3]: each of four changes with probability 0.5.

    Brightness, contrast (before or after the colours), saturation, hue in OpenCV's HSV with hues
    0..179; each change is clipped and cut to whole levels.

    numbers: `NUM_DISTORTIONS` in [0, 1): whether and how much for brightness, contrast, saturation
    and hue in turn; the last one: whether contrast comes late.
    """
    cv2 = opencv()
    does = [numbers[2 * i] < 0.5 for i in range(4)]
    beta = 64 * numbers[1] - 32
    contrast, saturation = 0.5 + numbers[3], 0.5 + numbers[5]
    hue = int(36 * numbers[7]) - 18
    early = numbers[8] < 0.5
    if does[0]:
        image = _levels(image, 1.0, beta)
    if does[1] and early:
        image = _levels(image, contrast, 0.0)
    if does[2]:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _levels(hsv[..., 1], saturation, 0.0)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if does[3]:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if does[1] and not early:
        image = _levels(image, contrast, 0.0)
    return image


def _levels(image: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    changed = image.astype(np.float32) * np.float32(factor) + np.float32(shift)
    return changed.clip(0, 255).astype(np.uint8)


class TrainingImages(Dataset["TrainingSample | DataError"]):
    """Augmented images by `Sample`. Holds no state.

    An unreadable image is replaced by the next one of the set. Data that cannot be used are
    returned as the error, not raised: a worker would bury it in its own traceback.
    """

    def __init__(
        self, maps: LabelMaps, how: Augmentation, statistics: Statistics, seed: int
    ) -> None:
        self.maps, self.how, self.statistics, self.seed = maps, how, statistics, seed

    def __getitem__(self, sample: Sample) -> TrainingSample | DataError:
        bad: list[tuple[int, str]] = []
        for attempt in range(min(REPLACEMENTS, len(self.maps))):
            candidate = (sample.index + attempt) % len(self.maps)
            try:
                pixels, labels = self.maps.pair(candidate)
            except UnreadableImage as error:
                bad.append((candidate, str(error)))
                continue
            except DataError as error:
                return error
            # Drawn by the image wanted, not by the one found.
            pixels, labels = augmented(pixels, labels, self.how, self.seed, sample)
            return _padded(pixels, labels, self.how.crop, self.statistics, bad)
        return DataError(
            f"{len(bad)} training images in a row cannot be read",
            why=f"the last one, '{self.maps.name(bad[-1][0])}': {bad[-1][1]}" if bad else "",
            fix="look at the files; most of this set seems to be broken",
        )


def _padded(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int16],
    side: int,
    statistics: Statistics,
    bad: list[tuple[int, str]],
) -> TrainingSample:
    """Normalised, then filled up to side x side to the right and below."""
    height, width = labels.shape
    missing = (0, side - width, 0, side - height)
    image = F.pad(to_input(pixels, statistics), missing)
    target = F.pad(torch.from_numpy(labels.copy()), missing, value=IGNORED)
    return TrainingSample(image, target, bad)


class TrainingBatch(NamedTuple):
    """What this process trains on in a step."""

    images: Tensor
    """float32 [B, 3, S, S]."""
    labels: Tensor
    """int16 [B, S, S]."""
    bad: list[tuple[int, str]]


def collate(samples: Sequence[TrainingSample | DataError]) -> TrainingBatch | DataError:
    """The samples of a step as one batch; the first error, if there is one."""
    read: list[Any] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        read.append(sample)
    return TrainingBatch(
        torch.stack([sample.image for sample in read]),
        torch.stack([sample.labels for sample in read]),
        [bad for sample in read for bad in sample.bad],
    )
