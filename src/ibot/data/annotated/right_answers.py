"""Which images of a database are right answers to a query, and which do not count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets import fingerprints

Places = NDArray[np.int64]
"""int64 [m], positions of images in the database."""


class RightAnswers(Protocol):
    """What is right for each query, at one level of difficulty or several."""

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels, easiest first."""
        ...

    def of(self, level: str, query: int) -> tuple[Places, Places]:
        """What is right for a query, and junk: what counts neither as right nor as wrong."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex of all answers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Graded:
    """Lists of revisited Oxford and Paris: each answer is easy, hard or junk."""

    easy: Sequence[Places]
    """For each query."""
    hard: Sequence[Places]
    junk: Sequence[Places]

    @property
    def levels(self) -> tuple[str, ...]:
        """Those of the published tables, and the one that they leave out."""
        return "easy", "medium", "hard"

    def of(self, level: str, query: int) -> tuple[Places, Places]:
        """Medium: easy and hard answers are right; of the other two, the rest is junk."""
        easy, hard, junk = self.easy[query], self.hard[query], self.junk[query]
        if level == "medium":
            return np.concatenate([easy, hard]), junk
        right, other = (easy, hard) if level == "easy" else (hard, easy)
        return right, np.concatenate([junk, other])

    def fingerprint(self) -> str:
        """SHA-256 in hex of all lists."""
        lists = [*self.easy, *self.hard, *self.junk]
        return fingerprints.digest("graded", *lists)


class SameClass:
    """All images of the query's class are right, but the query itself."""

    levels = ("class",)

    def __init__(
        self,
        queries: NDArray[np.int32],
        database: NDArray[np.int32],
        own: Places | None = None,
    ) -> None:
        """Labels int32 [q] and [n]; `own` int64 [q]: where each query lies in the database."""
        self._queries, self._database, self._own = queries, database, own
        self._order = np.argsort(database, kind="stable")
        classes = 1 + max(int(queries.max(initial=-1)), int(database.max(initial=-1)))
        self._starts = np.searchsorted(database[self._order], np.arange(classes + 1))

    def of(self, level: str, query: int) -> tuple[Places, Places]:
        """The class of the query; of a query in the database, itself is junk."""
        label = self._queries[query]
        right = self._order[self._starts[label] : self._starts[label + 1]]
        if self._own is None:
            return right, np.zeros(0, np.int64)
        own = self._own[query : query + 1]
        return right[right != own], own

    def fingerprint(self) -> str:
        """SHA-256 in hex of the labels and places."""
        own = b"" if self._own is None else self._own
        return fingerprints.digest("class", self._queries, self._database, own)
