"""What the detector sees of an image: mirrored, resized and cropped, with its objects (8.9.1).

All sizes follow the shorter side of the tests: with 800, they are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ibot.data.annotated.coco import CocoImages, Objects
from ibot.data.decode import UnreadableImage
from ibot.data.pixels import Statistics
from ibot.errors import DataError
from ibot.eval.dense.detection.settings import DetectionSettings
from ibot.eval.dense.detection.target import Batch, Target
from ibot.eval.dense.rescale import (
    padded,
    rescaled_size,
    resize_bilinear,
    resize_nearest,
    to_input,
)
from ibot.rng import Purpose, uniform

MULTIPLE = 32
"""Of what inputs are padded to, at least."""
REPLACEMENTS = 100
"""Following images tried in place of one that cannot be read."""
_PUBLISHED = 800
_SHORT = range(480, 801, 32)
_SHORT_BEFORE_CROP = (400, 500, 600)
_CROP = (384, 600)

Key = tuple[int, int, int]
"""Step, image, place in the step: which view of which image."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Sizes in pixels, of which the training draws."""

    short: tuple[int, ...]
    """Of the shorter side."""
    before_crop: tuple[int, ...]
    """Of the shorter side of what is cropped."""
    crop: tuple[int, int]
    """Smallest and largest side of a crop."""

    @classmethod
    def of(cls, short: int) -> Sides:
        """In proportion to the shorter side of the tests."""

        def scaled(sides: Sequence[int]) -> tuple[int, ...]:
            return tuple(max(1, round(side * short / _PUBLISHED)) for side in sides)

        low, high = scaled(_CROP)
        return cls(scaled(_SHORT), scaled(_SHORT_BEFORE_CROP), (low, high))


class Draws(NamedTuple):
    """Numbers in [0, 1) that decide on a view."""

    flip: float
    policy: float
    short: float
    before_crop: float
    height: float
    width: float
    top: float
    left: float


class Seen(NamedTuple):
    """An image on its way, with its objects."""

    image: NDArray[np.uint8]
    """[h, w, 3]."""
    objects: Objects


def training_view(seen: Seen, settings: DetectionSettings, draws: Draws) -> Seen:
    """Mirror, perhaps crop, and resize by one of two policies with equal chance.

    Boxes are clipped; objects of which a crop leaves nothing go. Without `policy` as published
    nothing is cropped; with "none" the size is that of the tests.
    """
    sides = Sides.of(settings.short)
    if draws.flip < settings.flip:
        seen = flipped(seen)
    if settings.policy == "published" and draws.policy >= 0.5:
        short = _one_of(sides.before_crop, draws.before_crop)
        seen = cropped(resized(seen, short, settings.long), sides.crop, draws)
    short = settings.short if settings.policy == "none" else _one_of(sides.short, draws.short)
    return resized(seen, short, settings.long)


def _one_of(choices: Sequence[int], draw: float) -> int:
    return choices[int(draw * len(choices))]


def flipped(seen: Seen) -> Seen:
    """Mirrored: left becomes right."""
    boxes, labels, masks = seen.objects
    width = seen.image.shape[1]
    boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    masks = None if masks is None else masks[:, :, ::-1]
    return Seen(seen.image[:, ::-1], Objects(boxes, labels, masks))


def resized(seen: Seen, short: int, long: int) -> Seen:
    """By the rule of 8.9.1: pixels bilinear, masks nearest, boxes by the true factor of each axis
    and clipped.
    """
    image, (boxes, labels, masks) = seen
    old = image.shape[:2]
    new = rescaled_size(*old, short=short, long=long)
    # A copy: torch wants what may be written, which what Pillow read may not.
    image = resize_bilinear(np.array(image, order="C"), new)
    if masks is not None:
        rescaled = np.empty((len(masks), *new), np.uint8)
        for i, mask in enumerate(masks):
            rescaled[i] = resize_nearest(np.ascontiguousarray(mask), new)
        masks = rescaled
    factor = np.array([new[1] / old[1], new[0] / old[0]] * 2)
    return _clipped(image, Objects((boxes * factor).astype(np.float32), labels, masks))


def cropped(seen: Seen, sides: tuple[int, int], draws: Draws) -> Seen:
    """A window of the image: height and width of `sides`, ends included, where it has as much."""
    image, (boxes, labels, masks) = seen
    place = []
    for length, side, at in zip(image.shape, draws[4:6], draws[6:8], strict=False):
        low, high = (min(length, limit) for limit in sides)
        size = low + int(side * (high - low + 1))
        start = int(at * (length - size + 1))
        place.append(slice(start, start + size))
    boxes = boxes - np.array([place[1].start, place[0].start] * 2, np.float32)
    masks = None if masks is None else masks[:, place[0], place[1]]
    return _clipped(image[place[0], place[1]], Objects(boxes, labels, masks))


def _clipped(image: NDArray[np.uint8], objects: Objects) -> Seen:
    """Boxes inside of the image; objects go of which no box is left."""
    boxes, labels, masks = objects
    height, width = image.shape[:2]
    boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
    left = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not left.all():
        boxes, labels, masks = boxes[left], labels[left], None if masks is None else masks[left]
    return Seen(image, Objects(boxes, labels, masks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An input of the network that is not padded yet."""

    image: Tensor
    """float32 [3, h, w], normalised."""
    target: Target
    factors: tuple[float, float]
    index: int
    bad: list[tuple[int, str]]
    """(image, reason) of those that could not be read on the way to this one."""


def _input(seen: Seen, statistics: Statistics) -> tuple[Tensor, Target]:
    boxes, labels, masks = seen.objects
    target = Target(
        torch.from_numpy(np.ascontiguousarray(boxes)),
        torch.from_numpy(labels),
        None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
    )
    return to_input(seen.image, statistics), target


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingViews(Dataset["Sample | DataError"]):
    """Views to train on, by key: the same ones whatever the processes, workers and resumptions.

    An image that cannot be read is replaced by the next one. Where none can, the error is returned,
    not raised: a worker would bury it in its own traceback.
    """

    images: CocoImages
    settings: DetectionSettings
    statistics: Statistics
    """Of the backbone."""
    masks: bool
    seed: int

    def __getitem__(self, key: Key) -> Sample | DataError:
        step, index, place = key
        bad: list[tuple[int, str]] = []
        for attempt in range(min(REPLACEMENTS, len(self.images))):
            found = (index + attempt) % len(self.images)
            try:
                image = self.images.read(found)
            except UnreadableImage as error:
                bad.append((found, str(error)))
                continue
            drawn = uniform(self.seed, step, index, place, Purpose.DETECTION_VIEW, 8)
            objects = self.images.objects(found, masks=self.masks)
            seen = training_view(Seen(image, objects), self.settings, Draws(*drawn.tolist()))
            image, target = _input(seen, self.statistics)
            return Sample(image=image, target=target, factors=(1.0, 1.0), index=found, bad=bad)
        last, why = bad[-1]
        return DataError(
            f"{len(bad)} training images in a row cannot be read",
            why=f"the last one, '{self.images.name(last)}': {why}",
            fix="look at the files; most of this set seems to be broken",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestViews(Dataset[Sample]):
    """Some images at the size of the tests, without objects; those that cannot be read black."""

    __test__ = False  # pytest takes it for tests otherwise

    images: CocoImages
    indices: Sequence[int]
    settings: DetectionSettings
    statistics: Statistics

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        index = self.indices[position]
        nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), None)
        bad: list[tuple[int, str]] = []
        try:
            pixels = self.images.read(index)
        except UnreadableImage as error:
            pixels = np.zeros((1, 1, 3), np.uint8)
            bad.append((index, str(error)))
        seen = resized(Seen(pixels, nothing), self.settings.short, self.settings.long)
        (height, width), (h, w) = pixels.shape[:2], seen.image.shape[:2]
        image, target = _input(seen, self.statistics)
        factors = h / height, w / width
        return Sample(image=image, target=target, factors=factors, index=index, bad=bad)


class Read(NamedTuple):
    """A micro-batch, and what could not be read for it."""

    batch: Batch
    bad: list[tuple[int, str]]
    """(image, reason)."""


def collate(samples: Sequence[Sample | DataError], multiple: int = MULTIPLE) -> Read | DataError:
    """Pad images to the largest of them, and to a multiple of so many pixels; an error in place of
    one is that of all.
    """
    read: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        read.append(sample)
    batch = Batch(
        images=padded([sample.image for sample in read], multiple),
        sizes=[(sample.image.shape[1], sample.image.shape[2]) for sample in read],
        targets=[sample.target for sample in read],
        factors=[sample.factors for sample in read],
        index=[sample.index for sample in read],
    )
    return Read(batch, [bad for sample in read for bad in sample.bad])
