"""How words are used: numbers of each, counted in blocks of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibot.system.files import write_atomically

Kind = Literal["patch", "class"]
"""Whose words: those of patches, or of class tokens, one an image."""
BLOCK = 2**20
"""Tokens that are counted at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of each of K words. Means are over the tokens that carry the word; 0 without any."""

    uses: NDArray[np.int64]
    """int64 [K], tokens that carry it."""
    images: NDArray[np.int64]
    """int64 [K], images in which it occurs."""
    score: NDArray[np.float32]
    """float32 [K], mean of the largest logit."""
    confidence: NDArray[np.float32]
    """float32 [K], mean of the word's probability, 0..1."""
    entropy: NDArray[np.float32]
    """float32 [K], mean over its tokens of the entropy over all words, nats."""

    def save(self, file: Path) -> None:
        """Write an .npz file."""
        write_arrays(file, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, file: Path) -> Statistics:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file, whole or not at all."""

    def write(place: Path) -> None:
        with place.open("wb") as opened:  # a path would get the suffix
            np.savez(opened, **dict(arrays))

    write_atomically(file, write)


def count_words(
    words: NDArray[np.int32],
    score: NDArray[np.float16],
    confidence: NDArray[np.float16],
    entropy: NDArray[np.float16],
    count: int,
) -> Statistics:
    """Statistics of `count` words from words and numbers [n, N], which may be mapped."""
    uses, images = np.zeros(count, np.int64), np.zeros(count, np.int64)
    sums = np.zeros((3, count))
    for part in row_blocks(words.shape):
        block = np.asarray(words[part])
        uses += np.bincount(block.ravel(), minlength=count)
        in_order = np.sort(block, axis=1)
        first = np.ones(block.shape, bool)
        first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
        images += np.bincount(in_order[first], minlength=count)
        for total, values in zip(sums, (score, confidence, entropy), strict=True):
            total += np.bincount(block.ravel(), values[part].ravel(), count)
    means = (sums / np.maximum(uses, 1)).astype(np.float32)
    return Statistics(
        uses=uses, images=images, score=means[0], confidence=means[1], entropy=means[2]
    )


def row_blocks(shape: tuple[int, ...], block: int = BLOCK) -> Iterator[slice]:
    """Consecutive rows of a table [n, N] whose numbers do not exceed `block`, but one at least."""
    step = max(1, block // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)
