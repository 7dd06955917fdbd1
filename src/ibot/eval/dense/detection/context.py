"""What detection gets beside the network: images with objects to learn from and to be judged on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ibot.data.annotated.bitmaps import library
from ibot.data.annotated.coco import CocoImages
from ibot.data.annotated.coco_folders import open_coco
from ibot.data.sets.variants import count_shared
from ibot.eval.context import OpenedData, SplitContext
from ibot.eval.dense.rescale import opencv, rescaled_size
from ibot.eval.features.views import at_most
from ibot.system.processes import said_once
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.eval.request import Request

log = logging.getLogger("ibot")

TINY = 16.0
"""Pixels of a side: half of the smallest anchor, 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionContext(SplitContext):
    """The network, its means, and images with objects."""

    train: CocoImages
    """Those with an annotation, at least 32 pixels high and wide."""
    val: CocoImages
    """With the same classes."""
    data: str = ""
    """What the user named as data."""

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """Training and validation images of `request`, evenly thinned out where it says so.

        Raises DataError, and MissingExtra without the packages that resize images and score.
        """
        opencv()
        library()
        train, val = open_coco(
            request.data,
            images=request.images,
            labels=request.labels,
            val_data=request.val_data,
            split=request.split,
            seed=request.seed,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
        )
        told = list(dict.fromkeys([*train.notes, *val.notes]))
        train = train.to_train()
        train = at_most(train, request.max_train, train.subset)
        val = at_most(val, request.max_val, val.subset)
        told += [*_absent(train, val), *_small(train)]
        if shared := count_shared(train.files, val.files):
            with said_once():
                log.warning("%d of %d validation images are training images", shared, len(val))
        named = request.images or request.data
        return OpenedData({"train": train, "val": val, "data": named}, told)

    @property
    def num_classes(self) -> int:
        """C, of which some may have no object."""
        return len(self.train.categories)

    @property
    def has_masks(self) -> tuple[bool, bool]:
        """Whether objects to learn from, and those to be judged on, have masks."""
        return self.train.has_masks, self.val.has_masks

    def about_data(self) -> dict[str, Any]:
        """Root, fingerprints, numbers of classes and objects, and a sentence."""
        train, val = self.fingerprints().values()
        learned = int(self.train.trained.sum())
        judged = int((~self.val.annotations.crowd).sum())
        with_masks = "with masks" if all(self.has_masks) else "without masks"
        return {
            "root": str(self.val.root),
            "train": train,
            "val": val,
            "classes": self.num_classes,
            "train_objects": learned,
            "val_objects": judged,
            "summary": f"{counted(self.num_classes, 'class')} {with_masks}: "
            f"{counted(learned, 'object')} in {counted(len(self.train), 'image')} to train on, "
            f"{judged} in {len(self.val)} to be judged on",
        }

    def about_view(self) -> dict[str, Any]:
        """Only how images are turned: their size is a setting of the evaluation."""
        return {"exif_orientation": self.exif_orientation}


def _absent(train: CocoImages, val: CocoImages) -> list[str]:
    """A sentence on classes of which only the validation images have objects."""
    learned = set(train.annotations.labels[train.trained].tolist())
    judged = set(val.annotations.labels[~val.annotations.crowd].tolist())
    absent = [train.categories[label] for label in sorted(judged - learned)]
    if not absent:
        return []
    few = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if absent[5:] else "")
    return [f"there is no object to learn from of {counted(len(absent), 'class')}: {few}"]


def _small(images: CocoImages, short: int = 800, long: int = 1333) -> list[str]:
    """A sentence where most objects stay tiny at the published size."""
    found = images.annotations
    new = np.array([rescaled_size(h, w, short=short, long=long) for h, w in images.sizes.tolist()])
    factor = (new / images.sizes).mean(1)[found.image]
    sides = np.sqrt(found.boxes[:, 2:].prod(1).clip(0)) * factor
    median = float(np.median(sides[images.trained])) if images.trained.any() else TINY
    if median >= TINY:
        return []
    return [
        f"half of the objects are smaller than {median:.0f} pixels where images are {short} high: "
        "cut images into pieces, or set a larger `short`"
    ]
