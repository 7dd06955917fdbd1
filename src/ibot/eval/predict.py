"""Classes of new images by a stored classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ibot.config.reading import Opening
from ibot.data.pixels import normalize
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.open import open_files, open_images
from ibot.data.sets.same_channels import require_channels
from ibot.data.sets.several import Kind, grouped
from ibot.data.sets.trimmed import trimmed
from ibot.errors import DataError, printable
from ibot.eval.classifiers import load_classifier
from ibot.eval.features.views import in_batches, view_batches
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.opened import batch_of, channels_of_network_told
from ibot.system.device import choose_device
from ibot.system.process_state import loaders_forgotten
from ibot.words import counted

Places = Images | str | Path | Sequence[str | Path]
"""Images, or what a user names: files, folders, lists, archives, one or several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Classes of the readable images, in the order in which they were named."""

    names: list[str]
    """Paths, from the folder from which the images were named; of a window with its place."""
    probabilities: Tensor
    """float32 [n, C] on the CPU; each row sums to 1. Softmax of the scores, not calibrated."""
    classes: tuple[str, ...]
    labels: list[str]
    """Class of each image by its set; empty where the set has other classes, or none."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of images that could not be read."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def predicted(self) -> list[str]:
        """The most probable class of each image."""
        return [self.classes[i] for i in self.probabilities.argmax(dim=1).tolist()]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The `k` most probable classes of each image, or all, with their probabilities."""
        values, index = self.probabilities.topk(min(k, len(self.classes)), dim=1)
        return [
            [(self.classes[i], value) for i, value in zip(row, of_row, strict=True)]
            for row, of_row in zip(index.tolist(), values.tolist(), strict=True)
        ]

    @property
    def right(self) -> tuple[int, int]:
        """How many images have the class of their label, and how many have a label."""
        both = [(a, b) for a, b in zip(self.labels, self.predicted, strict=True) if a]
        return sum(a == b for a, b in both), len(both)


def predict(
    classifier: LinearClassifier | str | Path,
    images: Places,
    *,
    opening: Opening | None = None,
    batch: int = 0,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Classes of images, as `ibot predict CLASSIFIER IMAGES...` gives them, in memory.

        found = ibot.predict("runs/photos", "photos/new")
        print(found.names[0], found.predicted[0], found.probabilities[0].max())

    Args:
        classifier: what `ibot.load_classifier` takes or gives.
        images: a folder, a file, or several of them; a list, archives, whatever `ibot features`
            takes, or images that were opened.
        opening: how they are opened; None: as those on which the classifier was trained.
        batch: images per forward pass; 0: as many as evaluations take.
        device: where to compute; None: the best one for a path, else where the classifier is.
        workers: processes that decode.
        progress: called with images done and in all.

    Raises:
        DataError: no image can be read, nothing is there, or images have other channels.
        WeightsError, UserError: as `load_classifier`.
    """
    if not isinstance(classifier, LinearClassifier):
        classifier = load_classifier(classifier).to(choose_device(str(device or "auto")))
    elif device is not None:
        classifier = classifier.to(torch.device(device))
    sets = open_for(classifier, images, opening)
    parts = list(predicted(classifier, sets, batch=batch, workers=workers, progress=progress))
    return Predictions(
        names=[name for part in parts for name in part.names],
        probabilities=torch.cat([part.probabilities for part in parts]),
        classes=classifier.classes,
        labels=[label for part in parts for label in part.labels],
        bad=[line for part in parts for line in part.bad],
    )


def open_for(
    classifier: LinearClassifier, places: Places, opening: Opening | None = None
) -> list[Images]:
    """The sets of images that are named, opened as those from which the classifier learnt.

    Raises DataError for what is missing, and for other channels than the network's.
    """
    how = opening or classifier.opening
    if isinstance(places, Images):
        sets = [places]
    else:
        texts = [str(p) for p in ([places] if isinstance(places, str | Path) else places)]
        with channels_of_network_told(classifier.config.channels):
            sets = [_opened(kind, named, how) for kind, named in grouped(texts, how.channels)]
        sets = [trimmed(images, how.trim_border) for images in sets]
    if not sets:
        raise DataError("no images named", fix="name files or a folder behind the classifier")
    with channels_of_network_told(classifier.config.channels):
        for images in sets:
            require_channels(images, classifier.config.channels)
    return sets


def _opened(kind: Kind, named: list[str], how: Opening) -> Images:
    settings = {
        "exif_orientation": how.exif_orientation,
        "max_pixels": how.max_pixels,
        "channels": how.channels,
        "windows": how.windows,
    }
    return open_images(named[0], **settings) if kind == "set" else open_files(named, **settings)


def predicted(
    classifier: LinearClassifier,
    sets: Sequence[Images],
    *,
    batch: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Predictions]:
    """What `predict` gives, batch by batch, for any number of images.

    Raises DataError at the end if none could be read.
    """
    view, total, done = classifier.view, sum(map(len, sets)), 0
    batch = 1 if view.varies else batch or batch_of(classifier.backbone, view.size)
    read, first_bad = 0, None
    for images in sets:
        labels = labels_for(images, classifier.classes)
        batches = in_batches(np.arange(len(images)), batch)
        with loaders_forgotten():
            for part in view_batches(images, view, batches, workers):
                bad = [(_path(images, i), reason) for i, reason in part.bad]
                read, first_bad = read + len(part.positions), first_bad or (bad or [None])[0]
                done += len(part.positions) + len(bad)
                if progress is not None:
                    progress(done, total)
                yield Predictions(
                    names=[_path(images, i) for i in part.positions.tolist()],
                    probabilities=_probabilities(classifier, part.views),
                    classes=classifier.classes,
                    labels=[labels[i] if labels else "" for i in part.positions.tolist()],
                    bad=bad,
                )
    if not read:
        raise DataError(
            f"none of {counted(total, 'image')} can be read",
            why=f"the first, '{first_bad[0]}': {first_bad[1]}" if first_bad else "",
            fix="look at the files, or name others",
        )


def labels_for(images: Images, classes: tuple[str, ...]) -> list[str]:
    """The class of each image by its set, empty where `classes` lack it; none of a set without."""
    if not isinstance(images, LabelledImages) or not set(images.classes) & set(classes):
        return []
    names = [name if name in classes else "" for name in images.classes]
    return [names[label] for label in images.labels.tolist()]


def unknown_note(images: Images, classes: tuple[str, ...]) -> list[str]:
    """What to say of a set some of whose classes, but not all, the classifier knows."""
    if not isinstance(images, LabelledImages):
        return []
    unknown = [name for name in images.classes if name not in classes]
    if not unknown or len(unknown) == len(images.classes):
        return []
    some = ", ".join(map(printable, unknown[:3])) + (", ..." if unknown[3:] else "")
    return [
        f"{len(unknown)} of the {len(images.classes)} classes of '{images.root}' are none of the "
        f"classifier's: {some}; their images have no label"
    ]


@torch.inference_mode()
def _probabilities(classifier: LinearClassifier, views: Tensor) -> Tensor:
    """float32 [b, C] on the CPU of views [b, C', h, w]."""
    if not len(views):
        return torch.zeros(0, len(classifier.classes))
    inputs = normalize(views.to(classifier.weight.device), classifier.backbone.statistics)
    return classifier.logits(inputs).float().softmax(dim=1).cpu()


def _path(images: Images, index: int) -> str:
    """The path of an image as its set was named."""
    return str(images.root / images.name(index))
