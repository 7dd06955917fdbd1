"""Features of the images of a set, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.sets.images import LabelledImages


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """One feature of all readable images of a set."""

    rows: Tensor
    """[n, d], mapped from the file: float32, unless what made them gave another type."""
    index: NDArray[np.int64]
    """int64 [n], position of each row in the set."""
    bad: list[tuple[str, str]]
    """(name, reason) of images that could not be read."""
    cached: bool
    """Whether nothing had to be computed."""
    known: int = field(default=0, kw_only=True)
    """Rows that were there before: all where it is cached, of a set that grew the older ones."""

    def unit(self) -> Tensor:
        """Rows of length 1, a copy in memory: for k-means, which needs them all, and small sets.

        Evaluations and searches of any size take `rows` and scale them block by block as they read.
        """
        return torch.nn.functional.normalize(self.rows, dim=-1)

    def take(self, places: NDArray[np.int64]) -> Self:
        """Some of the rows, by their row numbers."""
        return replace(self, rows=self.rows[torch.from_numpy(places)], index=self.index[places])


@dataclass(frozen=True, slots=True)
class LabelledFeatures(FeatureSet):
    """The same with the class of each image."""

    labels: Tensor
    """int64 [n]."""

    @classmethod
    def of(cls, features: FeatureSet, images: LabelledImages) -> LabelledFeatures:
        """Features of `images` with their labels."""
        labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64)[features.index])
        return cls(
            features.rows,
            features.index,
            features.bad,
            features.cached,
            labels,
            known=features.known,
        )

    def take(self, places: NDArray[np.int64]) -> Self:
        """Some of the rows, by their row numbers."""
        cut = super(LabelledFeatures, self).take(places)
        return replace(cut, labels=self.labels[torch.from_numpy(places)])


F = TypeVar("F", bound=FeatureSet)


def places_of(features: FeatureSet, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers of some images, rising; unreadable ones are missing."""
    return np.flatnonzero(np.isin(features.index, wanted))


def rows_of(features: F, wanted: NDArray[np.int64]) -> F:
    """The rows of some images, copied unless they are all."""
    places = places_of(features, wanted)
    return features if len(places) == len(features.index) else features.take(places)


def unreadable(*sets: FeatureSet) -> list[str]:
    """A note that names what could not be read, or none."""
    return unread([line for part in sets for line in part.bad])


def unread(bad: Sequence[tuple[str, str]]) -> list[str]:
    """The same of names with reasons."""
    if not bad:
        return []
    several = f"{len(bad)} images cannot be read, the first"
    count = "1 image cannot be read" if len(bad) == 1 else several
    return [f"{count}: {bad[0][0]}: {bad[0][1]}"]
