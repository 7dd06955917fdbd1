"""Scores of label maps: intersections and unions over all pixels of a set (spec_evaluation 8.11).

All counts are whole numbers, so that the order of images and the number of processes change
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ibot.eval.scores import RESAMPLES, interval


def confusion(found: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of each pair of classes: int64 [C, C], row: the true one, column: the found one.

    found int [...], classes 0..C-1. labels int [...], negative where pixels are left out.
    """
    kept = labels >= 0
    pairs = labels[kept].long() * num_classes + found[kept].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def areas(counts: Tensor) -> Tensor:
    """What scores are made of, from a confusion [C, C]: int64 [3, C], pixels of each class that
    are right, that are true, that are found.
    """
    return torch.stack([counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)])


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Shares in per cent; NaN for a class that neither truth nor prediction holds."""

    miou: float
    """Mean over classes of intersection over union."""
    macc: float
    """Mean over classes of the pixels of a class that were found."""
    aacc: float
    """Of all pixels that were found."""
    iou: Tensor
    """float64 [C]."""
    accuracy: Tensor
    """float64 [C]."""

    @classmethod
    def of(cls, summed: Tensor) -> LabelScores:
        """From the `areas` int64 [3, C] of a whole set.

        A class that is found and never true counts with 0 in the mean of unions, and not in that of
        accuracies, as in the published evaluation. Raises ValueError where no pixel is counted.
        """
        hits, truth, found = summed.double()
        if not truth.sum():
            raise ValueError("no pixel is counted")
        iou, accuracy = 100 * hits / (truth + found - hits), 100 * hits / truth
        return cls(
            miou=iou.nanmean().item(),
            macc=accuracy.nanmean().item(),
            aacc=(100 * hits.sum() / truth.sum()).item(),
            iou=iou,
            accuracy=accuracy,
        )

    def by_class(self, names: Sequence[str]) -> dict[str, float | None]:
        """Intersection over union of each class by its name; None where it is absent."""
        shares = self.iou.tolist()
        return {n: None if s != s else s for n, s in zip(names, shares, strict=True)}


def miou_interval(of_images: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mIoU over resamples of the images.

    of_images: `areas` int64 [n, 3, C] of each. Few images say little: of the classes that occur in
    one of them alone many resamples hold none.
    """
    count = len(of_images)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    summed = torch.from_numpy(draws).double() @ of_images.double().flatten(1)
    hits, truth, found = summed.view(RESAMPLES, *of_images.shape[1:]).unbind(dim=1)
    return interval((100 * hits / (truth + found - hits)).nanmean(dim=1))
