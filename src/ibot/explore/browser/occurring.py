"""Where a word occurs, as the page is told: the best patches, one an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session
from ibot.show.patterns import best_of_each_image

if TYPE_CHECKING:
    from ibot.vocabulary.word_index import Occurrences, WordIndex

Kind = Literal["patch", "class"]
KINDS: tuple[Kind, ...] = ("patch", "class")


def check_word(index: WordIndex, word: int, kind: Kind) -> None:
    """Raise Refused for a word that the head does not have."""
    count = index.num_words if kind == "patch" else index.num_class_words
    if word >= count:
        raise Refused(404, f"there is no word {word}", why=f"the head has {count}, from 0 on")


def one_an_image(
    index: WordIndex, word: int, kind: Kind, count: int, without: int | None = None
) -> Occurrences:
    """The best occurrences of a word in `count` images, in each its best (10.2).

    without: row of an image that is left out.
    """
    limit = 4 * count
    while True:
        found = index.occurrences(word, kind, limit)
        first = best_of_each_image(found.row, found.score)
        if without is not None:
            first = first[found.row[first] != without]
        if len(first) >= count or len(found.row) < limit:
            chosen = first[:count]
            kind_of = type(found)
            return kind_of(found.row[chosen], found.patch[chosen], found.score[chosen])
        limit *= 4


def as_told(
    session: Session, index: WordIndex, found: Occurrences, kind: Kind = "patch"
) -> Iterator[dict[str, Any]]:
    """Each occurrence with the name and the number of its image."""
    shelf, columns = session.pictured(), index.grid[1]
    # In one read: tables are mapped, and a number at a time is slow.
    confidence = index.confidence[found.row, found.patch] if kind == "patch" else found.score
    columns_of = (found.row, found.patch, found.score, confidence)
    for row, patch, score, sure in zip(*(part.tolist() for part in columns_of), strict=True):
        image = int(index.index[row])
        place = {}
        if kind == "patch":
            place = {"row": patch // columns, "col": patch % columns, "confidence": rounded(sure)}
        told = {"image": image, "name": shelf.name(str(image)), "patch": patch, **place}
        yield {**told, "score": rounded(score)}


def row_of(index: WordIndex, image: str) -> int | None:
    """The row of an image in the index; None for one dropped, or unreadable when it was made."""
    return index.row_of(int(image)) if image.isdecimal() else None


def rounded(value: float | np.floating[Any], digits: int = 4) -> float | None:
    """A number as JSON holds it; None for none."""
    number = float(value)
    return round(number, digits) if np.isfinite(number) else None


def listed(values: NDArray[Any], digits: int = 4) -> list[float]:
    """Numbers as JSON holds them."""
    return [float(value) for value in np.round(np.asarray(values, np.float64), digits)]
