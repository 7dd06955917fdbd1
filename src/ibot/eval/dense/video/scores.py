"""How well masks of a video agree with the true ones: J and F (spec_evaluation 8.12).

The arithmetic of the project davis2017-evaluation. J is the overlap of regions, F that of their
boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ibot.eval.dense.rescale import opencv

TOLERANCE = 0.008
"""Of boundaries, as a share of the diagonal."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Series:
    """What is reported of the values of an object over frames."""

    mean: float
    recall: float
    """Share of the frames with a value above 0.5."""
    decay: float
    """Mean of the first quarter of the frames minus that of the last."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Series:
        """Of the values of one object, a frame each, one at least."""
        frames = np.asarray(values, np.float64)
        first, *_, last = quarters(len(frames))
        decay = frames[slice(*first)].mean() - frames[slice(*last)].mean()
        return cls(float(frames.mean()), float((frames > 0.5).mean()), float(decay))


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """J and F of an object, a value for each frame that counts."""

    region: list[float]
    """J."""
    boundary: list[float]
    """F."""

    @property
    def mean(self) -> float:
        """J&F: the mean of both means."""
        return (Series.of(self.region).mean + Series.of(self.boundary).mean) / 2


def quarters(count: int) -> list[tuple[int, int]]:
    """First frame and end of the four bins of `count` frames; neighbours share a frame."""
    edges = np.round(np.linspace(1, count, 5) + 1e-10).astype(int) - 1
    return [(int(a), int(b) + 1) for a, b in pairwise(edges)]


def region_similarity(found: Mask, truth: Mask) -> float:
    """J of two masks [H, W]: their intersection over their union; 1 where both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def boundary(mask: Mask) -> Mask:
    """Pixels of [H, W] that differ from their right, lower or lower right neighbour.

    The last row compares to the right only, the last column downwards only.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def boundary_accuracy(found: Mask, truth: Mask) -> float:
    """F of two masks [H, W]: harmonic mean of the shares of each one's boundary near the other's.

    A mask without boundary is right about all of what it says, which is nothing.
    Raises MissingExtra.
    """
    edges, true_edges = boundary(found), boundary(truth)
    num_found, num_true = np.count_nonzero(edges), np.count_nonzero(true_edges)
    if not num_found or not num_true:
        return 1.0 if num_found == num_true else 0.0
    radius = math.ceil(TOLERANCE * math.hypot(*found.shape))
    precision = np.count_nonzero(edges & dilated(true_edges, radius)) / num_found
    recall = np.count_nonzero(true_edges & dilated(edges, radius)) / num_true
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def dilated(mask: Mask, radius: int) -> Mask:
    """Pixels within `radius` of one of the mask [H, W]: x^2 + y^2 <= radius^2."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return opencv().dilate(mask.view(np.uint8), disk).astype(bool)


def summary(objects: Mapping[str, ObjectScore]) -> dict[str, list[float]]:
    """What the tables report, by the metric's name: a value for each object, their mean counts."""
    found: dict[str, list[float]] = {"video_jf": [one.mean for one in objects.values()]}
    parts = {"j": "region", "f": "boundary"}
    for letter, part in parts.items():
        series = [Series.of(getattr(one, part)) for one in objects.values()]
        for name in ("mean", "recall", "decay"):
            found[f"video_{letter}_{name}"] = [getattr(one, name) for one in series]
    return found
