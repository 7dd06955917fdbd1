"""Images for fine-tuning: augmented and mixed, in order, and validation views (8.4, 8.5, 8.7).

RandAugment, erasing, mixup and CutMix are timm's: the published recipes are defined by its words.
timm draws from the global generators of Python, numpy and torch, so each of its draws happens with
these seeded by what is drawn for, and put back afterwards. A view then depends on (seed, epoch,
image, copy) alone, whatever the workers, the order and the resumptions.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ibot.data.decode import UnreadableImage
from ibot.data.pixels import MEAN, STD, Statistics
from ibot.data.sets.images import Images, LabelledImages
from ibot.errors import DataError, MissingExtra
from ibot.eval.features.views import View
from ibot.eval.tune.settings import FinetuneSettings
from ibot.rng import Purpose, philox

COLOR_JITTER = 0.4
"""Configured in the published runs, but timm applies it only where RandAugment is off."""
EPOCH_UNIT = 256
"""An epoch of repeated augmentation is rounded down to a multiple of this (8.7)."""
WHOLE_CROP = 224 / 256
"""Share of the shorter side that a validation view spans."""
REPLACEMENTS = 100
"""Following images tried in place of one that cannot be read."""

Key = tuple[int, int, int]
"""Epoch, image, copy: which view of which image."""


@contextmanager
def seeded(key: tuple[int, int], counter: tuple[int, int, int, int]) -> Iterator[None]:
    """Seed the generators of Python, numpy and torch (CPU) by a Philox word each, then restore."""
    drawn = philox(key, np.array(counter, np.uint64)).tolist()
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(drawn[0])
    np.random.seed(drawn[1])
    # Not `torch.manual_seed`, which seeds every GPU too.
    torch.default_generator.manual_seed(drawn[2])
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


def finetune_transform(
    settings: FinetuneSettings, size: int, statistics: Statistics = (MEAN, STD)
) -> Callable[[Image.Image], Tensor]:
    """Training transform of 8.4, 8.5 and 8.7: an RGB image -> normalised float32 [3, size, size].

    Random resized crop (area 0.08..1, aspect 3/4..4/3, bicubic), flip, RandAugment, normalisation,
    random erasing. Raises MissingExtra without timm.
    """
    transform = _timm("timm.data").create_transform(
        size,
        is_training=True,
        color_jitter=COLOR_JITTER,
        auto_augment=settings.auto_augment or None,
        interpolation="bicubic",
        mean=statistics[0],
        std=statistics[1],
        re_prob=settings.erasing,
        re_mode="pixel",
        re_count=1,
    )
    for part in transform.transforms:
        for operation in getattr(part, "ops", ()):  # those of RandAugment
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the highest `bits` of each channel.

    A strong draw asks for none: black, as Pillow gave before it refused.
    """
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new("RGB", image.size)


def validation_view(settings: FinetuneSettings, size: int) -> View:
    """Validation view: bilinear with the crop rule of 8.4, or VAL224 (bicubic) of 8.5 and 8.7.

    `settings.keep_size` says what becomes of images that have the size already.
    """
    whole = 0 < settings.whole_from <= size
    resize = size if whole else int(size / WHOLE_CROP)
    return View(
        (size, size),
        interpolation=settings.test_interpolation,
        resize=resize,
        keep=settings.keep_size,
    )


class TrainingSample(NamedTuple):
    """One augmented image."""

    view: Tensor
    """float32 [3, S, S]."""
    label: int
    bad: list[tuple[int, str]]
    """(image, reason) of those that could not be read on the way to this one."""


class TrainingViews(Dataset["TrainingSample | DataError"]):
    """Augmented images by (epoch, image, copy). Holds no state.

    An unreadable image is replaced by the next one of the set, under a view of its own. Data that
    cannot be used are returned as the error, not raised: a worker would bury it in its own
    traceback.
    """

    def __init__(
        self, images: LabelledImages, transform: Callable[[Image.Image], Tensor], seed: int
    ) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __getitem__(self, key: Key) -> TrainingSample | DataError:
        epoch, index, copy = key
        bad: list[tuple[int, str]] = []
        for attempt in range(min(REPLACEMENTS, len(self.images))):
            candidate = (index + attempt) % len(self.images)
            try:
                image = Image.fromarray(self.images.read(candidate))
            except UnreadableImage as error:
                bad.append((candidate, str(error)))
                continue
            # Seeded by the image wanted, not by the one found: a stand-in must not repeat its own
            # view.
            with seeded(
                (self.seed, Purpose.FINETUNE_VIEW), (index & 0xFFFFFFFF, index >> 32, epoch, copy)
            ):
                return TrainingSample(self.transform(image), self.images.label(candidate), bad)
        why = "the set is empty"
        if bad:
            why = f"the last one, '{self.images.name(bad[-1][0])}': {bad[-1][1]}"
        return DataError(
            f"{len(bad)} training images in a row cannot be read",
            why=why,
            fix="look at the files; most of this set seems to be broken",
        )


class ValidationViews(Dataset[tuple[int, "Tensor | str"]]):
    """Number and uint8 view [3, S, S] of some images, or the reason why one cannot be read."""

    def __init__(self, images: Images, indices: Sequence[int], view: View) -> None:
        self.images, self.indices, self.view = images, indices, view

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor | str]:
        index = self.indices[position]
        try:
            pixels = self.view.render(self.images.read(index))
        except UnreadableImage as error:
            return index, str(error)
        return index, torch.from_numpy(pixels.copy()).permute(2, 0, 1)


class Mixing:
    """Mixup and CutMix of a micro-batch, and its soft targets; else label smoothing alone.

    One ratio serves a whole micro-batch, whose images are mixed with themselves in reversed order
    (timm's mode batch).
    """

    def __init__(
        self, settings: FinetuneSettings, num_classes: int, seed: int, *, enabled: bool
    ) -> None:
        """enabled: see `ibot.eval.tune.step_plan.plan_steps`. Raises MissingExtra without timm."""
        self.smoothing, self.num_classes, self.seed = settings.label_smoothing, num_classes, seed
        self.mixup = None
        if enabled:
            self.mixup = _timm("timm.data").Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                label_smoothing=settings.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(
        self, images: Tensor, labels: Tensor, step: int, part: int
    ) -> tuple[Tensor, Tensor]:
        """Mix micro-batch number `part` of a step.

        Args:
            images: float32 [B, 3, S, S], B even; changed in place.
            labels: int64 [B].
            step: optimizer step.
            part: number of the micro-batch among those of the step, over all processes.

        Returns:
            The images, and targets float32 [B, C] whose rows sum to 1.
        """
        if self.mixup is None:
            hard = F.one_hot(labels, self.num_classes).float()
            return images, hard * (1 - self.smoothing) + self.smoothing / self.num_classes
        with seeded((self.seed, Purpose.FINETUNE_MIX), (step & 0xFFFFFFFF, step >> 32, 0, part)):
            return self.mixup(images, labels)


def epoch_size(num_images: int, repeats: int) -> int:
    """Views in an epoch.

    With repeats a multiple of 256, as published; but all of a set that is smaller than that, of
    which the published rule would leave nothing.
    """
    whole_units = num_images // EPOCH_UNIT * EPOCH_UNIT
    return whole_units if repeats > 1 and whole_units else num_images


def deal(
    order: NDArray[np.int64], repeats: int, rank: int, world: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images of a receiver in an epoch, and numbers of copies: int64 [floor(epoch_size / world)].

    Every image of `order` int64 [N] is repeated in place, the row is dealt in turn to `world`
    receivers, so that copies of an image meet in different batches, and each keeps its first ones
    (8.7).
    """
    positions = rank + world * np.arange(epoch_size(len(order), repeats) // world)
    return order[positions // repeats], positions % repeats


def _timm(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("timm", "eval") from None
