"""What queries are compared with: the features of a database, and of distractors beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.sets.images import Images
from ibot.eval.features.rows import FeatureSet
from ibot.eval.neighbours.context import DescribedContext
from ibot.eval.neighbours.descriptors import Descriptor


@dataclass(frozen=True, slots=True)
class Searched:
    """Sets with their features, the database first; rows are counted through all of them."""

    sets: list[tuple[Images, FeatureSet]]

    @classmethod
    def of(
        cls, context: DescribedContext, database: Images, distractors: str, descriptor: Descriptor
    ) -> Searched:
        """A database, and the images that `distractors` names if it is not empty."""
        sets = {"database": database}
        if distractors:
            sets["distractors"] = context.further(distractors)
        return cls(
            [(part, context.describe(part, name, descriptor)) for name, part in sets.items()]
        )

    @property
    def database(self) -> FeatureSet:
        """Features of the database."""
        return self.sets[0][1]

    @property
    def features(self) -> list[FeatureSet]:
        """Those of each set."""
        return [features for _, features in self.sets]

    @property
    def bank(self) -> list[Tensor]:
        """Rows [n_i, D] of each set."""
        return [features.rows for features in self.features]

    @property
    def cached(self) -> bool:
        """Whether nothing had to be computed."""
        return all(features.cached for features in self.features)

    def __len__(self) -> int:
        return sum(map(len, self.bank))

    def rows_of_database(self) -> NDArray[np.int64]:
        """Row of each image of the database, -1 for those that cannot be read: int64 [n]."""
        row = np.full(len(self.sets[0][0]), -1, np.int64)
        row[self.database.index] = np.arange(len(self.database.index))
        return row

    def image_of(self, row: int) -> tuple[Images, int]:
        """Set and number of the image of a row. Raises ValueError for one that is not there."""
        for images, features in self.sets:
            if row < len(features.index):
                return images, int(features.index[row])
            row -= len(features.index)
        raise ValueError(f"{row} rows too far")
