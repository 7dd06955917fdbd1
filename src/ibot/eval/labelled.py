"""What evaluations of classes get beside the network: images to learn from and to be judged on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from ibot.config.reading import WHOLE, Opening, Windows
from ibot.data.sets.classes import absent_note
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.open import open_labelled
from ibot.data.sets.subsets import LabelledSubset
from ibot.data.sets.trimmed import is_trimmed, trimmed
from ibot.data.sets.variants import Labelled, count_shared, read_as
from ibot.errors import UserError
from ibot.eval.context import OpenedData, SplitContext
from ibot.eval.features.cache import Extract, K
from ibot.eval.features.rows import LabelledFeatures
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import at_most
from ibot.eval.scores import balanced_accuracy, bootstrap_mean, topk_hits
from ibot.system.device import choose_device
from ibot.system.processes import said_once
from ibot.types import ResultRecord

if TYPE_CHECKING:
    from ibot.eval.request import Request

log = logging.getLogger("ibot")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledContext(SplitContext):
    """The network, its means, and labelled images."""

    train: LabelledImages
    val: LabelledImages
    data: str = ""
    """What the user named as data, a set's name included."""
    windows: Windows = WHOLE
    """In which images are seen."""

    @classmethod
    def open_data(cls, request: Request) -> OpenedData:
        """Training and validation images of `request`, evenly thinned out where it says so."""
        if choose_device(request.device).type == "mps":
            raise UserError(
                "evaluations compute in float64, which mps lacks", fix="use --device cpu"
            )
        train, val = open_labelled(
            request.data,
            request.val_data,
            split=request.split,
            seed=request.seed,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
            channels=request.reading,
            windows=request.windows,
        )
        train, val = (trimmed(part, request.trim_border) for part in (train, val))
        told = [*train.notes, *val.notes, *filter(None, [absent_note(val.labels, val.classes)])]
        train = at_most(train, request.max_train, partial(LabelledSubset, train))
        val = at_most(val, request.max_val, partial(LabelledSubset, val))
        if shared := count_shared(train, val):
            with said_once():
                log.warning("%d of %d validation images are training images", shared, len(val))
        found = {"train": train, "val": val, "data": request.data, "windows": request.windows}
        return OpenedData(found, told)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.train.classes)

    @property
    def opening(self) -> Opening:
        """How the images were opened."""
        return Opening(
            channels=self.reading,
            windows=self.windows,
            exif_orientation=self.exif_orientation,
            max_pixels=self.max_pixels,
            trim_border=is_trimmed(self.val),
        )

    def about_data(self) -> dict[str, Any]:
        """Root, fingerprints, classes, and the share of the largest one in per cent."""
        train, val = self.fingerprints().values()
        return {
            "root": str(self.val.root),
            "train": train,
            "val": val,
            "classes": self.num_classes,
            "largest_class": float(100 * np.bincount(self.val.labels).max() / len(self.val)),
        }

    def read_alike(self, images: Labelled) -> Labelled:
        """Images of a further folder, read as all others are."""
        alike = read_as(images, self.exif_orientation, self.max_pixels)
        return cast("Labelled", trimmed(alike, is_trimmed(self.val)))

    def features(
        self,
        images: LabelledImages,
        name: str,
        features: Sequence[K] = (CLASS_TOKEN,),
        extract: Extract[K] | None = None,
    ) -> dict[K, LabelledFeatures]:
        """As `feature_sets`, with the labels."""
        found = self.feature_sets(images, name, features, extract)
        return {feature: LabelledFeatures.of(rows, images) for feature, rows in found.items()}

    def accuracy(
        self,
        protocol: str,
        hits: Tensor,
        labels: Tensor,
        settings: dict[str, Any],
        **more: Any,
    ) -> ResultRecord:
        """A record of top-1 accuracy in per cent, with its interval and the balanced accuracy.

        `hits` bool [n], whether an image of `labels` int64 [n] is right; `more`: as of `record`.
        """
        right = 100 * hits.double()
        return self.record(
            protocol,
            f"{protocol}_top1",
            right.mean().item(),
            settings,
            interval=bootstrap_mean(right, self.seed),
            num_val=len(hits),
            balanced=balanced_accuracy(hits, labels),
            **more,
        )

    def top(
        self,
        protocol: str,
        logits: Tensor,
        labels: Tensor,
        settings: dict[str, Any],
        **more: Any,
    ) -> ResultRecord:
        """The accuracy of `logits` [n, C] as a record, with top-5 where there are five classes."""
        top5 = None
        if logits.shape[1] >= 5:
            top5 = 100 * topk_hits(logits, labels, 5).double().mean().item()
        return self.accuracy(
            protocol, topk_hits(logits, labels, 1), labels, settings, top5=top5, **more
        )
