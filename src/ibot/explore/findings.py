"""What a search finds: nearest images and patches, near-duplicates, outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Square:
    """A patch and its place on the picture as it is read.

    Sides are shares of the picture's height and width, 0..1.
    """

    row: int
    """On the grid of patches, from 0."""
    column: int
    top: float
    left: float
    height: float
    width: float

    def __str__(self) -> str:
        return f"patch in row {self.row}, column {self.column}"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the page."""

    index: int
    """Number by which the image is read; below 0 for one that is not among those searched."""
    name: str
    """Any text, such as a path with undecodable bytes as surrogates."""
    similarity: float | None = None
    """Cosine; None where there is nothing to compare with, as for a query."""
    square: Square | None = None
    """The patch meant; None for the whole image."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """A query and its answers, the most similar first."""

    query: Picture
    answers: Sequence[Picture]

    @property
    def label(self) -> str:
        """Name of the query, and its patch if it is one."""
        name, square = self.query.name, self.query.square
        return name if square is None else f"{name}, {square}"


@dataclass(frozen=True, slots=True)
class Group:
    """Near-duplicates of the first of them."""

    pictures: Sequence[Picture]
    """Each with its similarity to the first, which has 1."""

    @property
    def smallest(self) -> float:
        """Smallest similarity to the first."""
        return min(shown.similarity for shown in self.pictures if shown.similarity is not None)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """All groups of near-duplicates."""

    threshold: float
    """Cosine to the first image of a group from which an image belongs to it."""
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Compared:
    """The images among which was searched."""

    folder: str
    count: int
    """Of those that could be read."""
    bad: Sequence[tuple[str, str]] = ()
    """(name, reason) of the others."""
    cached: bool = False
    """Whether nothing had to be computed for them."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search found."""

    nearest: Sequence[Nearest] = ()
    duplicates: Duplicates | None = None
    """None: not sought."""
    outliers: Sequence[Picture] | None = None
    """The strangest first, each with its mean similarity to its neighbours; None: not sought."""
    compared: Compared | None = None
    """None: not told."""
