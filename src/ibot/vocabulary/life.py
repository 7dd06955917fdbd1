"""The life of words over the checkpoints of a run: when they appear, and when they die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ibot.vocabulary.statistics import Kind, row_blocks
from ibot.vocabulary.word_index import WordIndex

SHARE, LEAST = 0.01, 2
"""A word lives at a checkpoint where it has this share of the mean use, and so many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """Of K words at C checkpoints, oldest first."""

    uses: NDArray[np.int64]
    """int64 [C, K], tokens that carry the word."""
    images: NDArray[np.int64]
    """int64 [C, K], images in which it occurs."""
    confidence: NDArray[np.float32]
    """float32 [C, K], mean over its tokens."""
    overlap: NDArray[np.float32]
    """float32 [C, K], share of its tokens that carried the same word one checkpoint earlier, among
    images read at both; NaN at the first one, and without tokens."""
    born: NDArray[np.int64]
    """int64 [K], first checkpoint at which the word lives; -1: it never does."""
    died: NDArray[np.int64]
    """int64 [K], last checkpoint at which it lives, if that is not the newest; else -1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Of one word; see `Lives`."""

    uses: NDArray[np.int64]
    """int64 [C]."""
    images: NDArray[np.int64]
    """int64 [C]."""
    confidence: NDArray[np.float32]
    """float32 [C]."""
    overlap: NDArray[np.float32]
    """float32 [C]."""
    born: int | None
    died: int | None


def lives_of(indexes: Sequence[WordIndex], kind: Kind = "patch") -> Lives:
    """The lives of all words; one pass over the words of each two checkpoints that follow."""
    statistics = [index.statistics(kind) for index in indexes]
    uses = np.stack([one.uses for one in statistics])
    enough = np.maximum(SHARE * uses.mean(axis=1, keepdims=True), LEAST)
    alive = uses >= enough
    newest, ever = len(indexes) - 1, alive.any(axis=0)
    last = newest - alive[::-1].argmax(axis=0)
    never = np.full(uses.shape[1], np.nan, np.float32)
    return Lives(
        uses=uses,
        images=np.stack([one.images for one in statistics]),
        confidence=np.stack([one.confidence for one in statistics]),
        overlap=np.stack([never, *(overlap(a, b, kind) for a, b in pairwise(indexes))]),
        born=np.where(ever, alive.argmax(axis=0), -1),
        died=np.where(ever & (last < newest), last, -1),
    )


def overlap(before: WordIndex, now: WordIndex, kind: Kind = "patch") -> NDArray[np.float32]:
    """float32 [K], share of each word's tokens `now` that carried the same word `before`.

    Of images that both have; NaN for words without tokens.
    """
    old, new = (one.words if kind == "patch" else one.class_words[:, None] for one in (before, now))
    count = now.num_words if kind == "patch" else now.num_class_words
    _, rows_old, rows_new = np.intersect1d(
        before.index, now.index, assume_unique=True, return_indices=True
    )
    kept, all_of = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for part in row_blocks((len(rows_new), new.shape[1])):
        a, b = old[rows_old[part]], new[rows_new[part]]
        all_of += np.bincount(b.ravel(), minlength=count)
        kept += np.bincount(b[a == b], minlength=count)
    share = np.full(count, np.nan, np.float32)
    np.divide(kept, all_of, out=share, where=all_of > 0, casting="unsafe")
    return share
