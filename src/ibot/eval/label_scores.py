"""Scores of label maps: intersections and unions over all pixels of a set (spec_evaluation 8.11).

All counts are whole numbers, so that the order of images and the number of processes change
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def confusion(found: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of each pair of classes: int64 [C, C], row: the true one, column: the found one.

    found int [...], classes 0..C-1. labels int [...], negative where pixels are left out.
    """
    kept = labels >= 0
    pairs = labels[kept].long() * num_classes + found[kept].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


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
    def of(cls, counts: Tensor) -> LabelScores:
        """From the confusion int64 [C, C] of a whole set.

        A class that is found and never true counts with 0 in the mean of unions, and not in that of
        accuracies, as in the published evaluation. Raises ValueError where no pixel is counted.
        """
        counts = counts.double()
        if not counts.sum():
            raise ValueError("no pixel is counted")
        hits, truth, found = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        iou, accuracy = 100 * hits / (truth + found - hits), 100 * hits / truth
        return cls(
            miou=iou.nanmean().item(),
            macc=accuracy.nanmean().item(),
            aacc=(100 * hits.sum() / counts.sum()).item(),
            iou=iou,
            accuracy=accuracy,
        )

    def by_class(self, names: tuple[str, ...]) -> dict[str, float | None]:
        """Intersection over union of each class by its name; None where it is absent."""
        shares = self.iou.tolist()
        return {n: None if s != s else s for n, s in zip(names, shares, strict=True)}
