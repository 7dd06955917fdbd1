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
    """Near-duplicates of each other."""

    pictures: Sequence[Picture]
    """Each with its similarity to the first, which has 1."""
    least: float | None = None
    """Smallest similarity of any two of them; None: not known."""
    agreement: float | None = None
    """Smallest agreement of the small pictures of any two; None: not compared."""

    @property
    def smallest(self) -> float:
        """Smallest similarity to the first."""
        return min(shown.similarity for shown in self.pictures if shown.similarity is not None)


@dataclass(frozen=True, slots=True)
class Altered:
    """Altered copies of images of the set, all of one kind, and which were known again."""

    kind: str
    count: int
    by_pictures: float
    """Share, 0..1, whose small pictures agree with the original's."""
    by_network: float
    """Share as similar as the network's threshold."""
    found: float
    """Share that would be called near-duplicates where the network is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """On what a threshold rests that the set's own images gave."""

    same: float
    """Agreement of small pictures from which two images are near-duplicates."""
    like: float
    """Agreement below which they are none, however similar."""
    cosine: float | None
    """Similarity from which images between these two are; None: too few other pairs to tell."""
    tells: bool | None
    """Whether the network knows enough altered copies again to be asked; None: too few say so."""
    altered: Sequence[Altered] = ()
    nearest: tuple[float, float] | None = None
    """Similarity of an image to the nearest one that is no copy: the middle, and what 1 in 100
    exceed."""

    @property
    def known_again(self) -> float:
        """Share, 0..1, of the altered copies that are near-duplicates by what is in use.

        Of none it has no value: `altered` must not be empty.
        """
        made = sum(kind.count for kind in self.altered)
        shares = (kind.found if self.tells else kind.by_pictures for kind in self.altered)
        return sum(s * kind.count for s, kind in zip(shares, self.altered, strict=True)) / made


@dataclass(frozen=True, slots=True)
class Duplicates:
    """All groups of near-duplicates."""

    threshold: float | None
    """Similarity that counts; None: the network was not asked."""
    groups: Sequence[Group]
    evidence: Evidence | None = None
    """None: the threshold was given."""


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
    known: int = 0
    """Images whose features were there already."""
    view: tuple[int, int] | None = None
    """Height and width of what the network sees."""
    grid: tuple[int, int] | None = None
    """Rows and columns of patches on it."""
    network: str = ""
    """Its weights, as they were named."""


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
