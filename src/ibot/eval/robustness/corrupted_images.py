"""Images with corruptions, generated from the validation images or stored (spec_evaluation 9.4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.variants import matched
from ibot.errors import DataError
from ibot.eval.features.views import View
from ibot.eval.labelled import LabelledContext
from ibot.eval.robustness.corrupt import CORRUPTIONS, corrupt
from ibot.eval.robustness.settings import CorruptionSettings
from ibot.rng import philox

# Second word of the key, beside those of `ibot.eval.robustness.occlude`.
_CORRUPT = 0x45560002

Sets = dict[tuple[str, int], LabelledImages]
"""Images by corruption and severity, in order."""


class CorruptedImages:
    """The views of a set with one corruption.

    Each image has its own seed, the same at every severity.
    """

    def __init__(
        self, base: LabelledImages, view: View, corruption: str, severity: int, seed: int
    ) -> None:
        self.base, self.view, self.seed = base, view, seed
        self.corruption, self.severity = corruption, severity
        self.root, self.notes, self.channels = base.root, base.notes, base.channels
        self.classes, self.labels = base.classes, base.labels

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(index)

    def label(self, index: int) -> int:
        """Class of an image."""
        return self.base.label(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the view."""
        return self.view.size

    def provenance(self) -> dict[str, object]:
        """That of the base."""
        return self.base.provenance()

    def read(self, index: int) -> NDArray[np.uint8]:
        """The corrupted view, uint8 [h, w, 3]. Raises UnreadableImage."""
        view = self.view.render(self.base.read(index))
        return corrupt(view, self.corruption, self.severity, image_seed(self.seed, index))

    def fingerprint(self) -> str:
        """That of the base with what is done to it."""
        return f"{self.base.fingerprint()} {self.corruption} {self.severity} {self.seed}"


def image_seed(seed: int, index: int) -> int:
    """A seed in 0..2^32 - 1 for an image, a function of (seed, image index) alone."""
    counter = np.array([index & 0xFFFFFFFF, index >> 32, 0, 0], np.uint64)
    return int(philox((seed, _CORRUPT), counter)[0])


def _pairs(settings: CorruptionSettings) -> Iterator[tuple[str, int]]:
    for name in (name for name in CORRUPTIONS if name in settings.corruptions):
        for severity in sorted(set(settings.severities)):
            yield name, severity


def generated_sets(context: LabelledContext, settings: CorruptionSettings) -> Sets:
    """The validation images with each corruption, made when they are read."""
    return {
        (name, severity): CorruptedImages(context.val, context.view, name, severity, context.seed)
        for name, severity in _pairs(settings)
    }


def stored_sets(context: LabelledContext, settings: CorruptionSettings) -> Sets:
    """ROOT/CORRUPTION/SEVERITY/CLASS/*; a corruption that lacks a severity is left out.

    Raises DataError where none is there.
    """
    root = Path(settings.root)
    lacking = {
        name for name, severity in _pairs(settings) if not (root / name / str(severity)).is_dir()
    }
    sets: Sets = {
        (name, severity): _stored_set(context, root / name / str(severity))
        for name, severity in _pairs(settings)
        if name not in lacking
    }
    if not sets:
        raise DataError(
            f"'{root}' holds none of the corruptions",
            why=f"looked for '{settings.corruptions[0]}/1' and others",
            fix="name the folder with CORRUPTION/SEVERITY/CLASS/*",
        )
    return sets


def _stored_set(context: LabelledContext, folder: Path) -> LabelledImages:
    """Made from validation images, which may lack classes of the training images."""
    images = context.read_alike(open_folder(folder, held_out=True))
    return matched(images, context.train.classes, (str(context.train.root), str(folder)))


def source_notes(settings: CorruptionSettings, sets: Sets) -> list[str]:
    """What a reader must know about the images: that they are generated, or which are absent."""
    if not settings.root:
        return [
            "generated: corruptions are made on the fly and do not reproduce the stored set of "
            "ImageNet-C"
        ]
    there = {name for name, _ in sets}
    lacking = [name for name in CORRUPTIONS if name in settings.corruptions and name not in there]
    if not lacking:
        return []
    return [f"corruptions that '{settings.root}' lacks are left out: {', '.join(lacking)}"]
