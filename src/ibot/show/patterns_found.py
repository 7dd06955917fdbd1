"""The words of an index with the patches that stand for them, as arrays (spec_evaluation 10.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.false_colours import as_rgb
from ibot.data.sets.images import Images, LabelledImages
from ibot.errors import UserError
from ibot.show.patterns import (
    DARK,
    best_of_each_image,
    covered,
    first_bright,
    framed,
    purity,
    ranked_words,
    window_around,
)
from ibot.vocabulary.statistics import Kind
from ibot.vocabulary.word_index import WordIndex

Centre = Literal["cover", "frame"]
RankBy = Literal["use", "score", "purity"]

PATCH_PIXELS, VIEW_PIXELS = 16, 112
"""Of a patch in a window, and of the shorter side of a whole view, at least: windows are cut from
the images, which often have more to show than the views of small networks."""
VIEWS = 256
"""Rendered views that are held, as some images stand for several words."""


@dataclass(frozen=True, slots=True)
class Member:
    """A patch, or for class tokens an image, that stands for a word."""

    image: int
    """Its number in the set."""
    name: str
    row: int
    column: int
    """Of the patch in its grid; 0 of a class token."""
    score: float
    """The largest logit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A word and what stands for it."""

    word: int
    rank: int
    """Among the ranked words, from 0."""
    uses: int
    """Patches, or class tokens, that carry it in the whole set."""
    images: int
    """In which they are."""
    label: str
    """The most frequent class among those patches; empty without labels."""
    purity: float | None
    """Its share of the patches, 0..1."""
    members: tuple[Member, ...]
    """The best first, one an image."""
    windows: tuple[NDArray[np.uint8], ...]
    """uint8 [side, side, 3] each with the patch in its middle, or whole views [h, w, 3]."""


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Makes patterns of the words of an index."""

    index: WordIndex
    images: Images
    """The set that was indexed."""
    patch: int
    """Pixels of a patch of the network."""
    kind: Kind = "patch"
    top_k: int = 36
    side: int = 5
    """Patches along a side of a window; odd."""
    centre: Centre = "frame"

    @property
    def times(self) -> int:
        """Pixels of a picture for each of the view."""
        if self.kind == "class":
            return max(1, -(-VIEW_PIXELS // min(self.index.view.size)))
        return max(1, -(-PATCH_PIXELS // self.patch))

    def ranking(self, by: RankBy = "use", least_images: int | None = None) -> NDArray[np.int64]:
        """Words in order: by their use, their mean score, or how pure they are of one label.

        least_images: words in fewer images are left out; None: 1 by use, else half of `top_k`, or
        of what the most frequent word has, as rare words come first otherwise. Raises UserError for
        purity without labels.
        """
        told = self.index.statistics(self.kind)
        if least_images is None:
            most = min(self.top_k, int(told.images.max(initial=0)))
            least_images = 1 if by == "use" else max(1, most // 2)
        if by == "purity":
            value: NDArray[np.float64] = self._purity()
        else:
            value = np.asarray(told.uses if by == "use" else told.score, np.float64)
        return ranked_words(value, told.uses, told.images, least_images)

    def _purity(self) -> NDArray[np.float64]:
        labels, names = self._labels
        if not names:
            raise UserError(
                f"'{self.images.root}' has no labels, so that words have no purity",
                fix="--rank-by use, or name a folder with a folder for each class",
            )
        patches = self.kind == "patch"
        words = self.index.words if patches else self.index.class_words
        count = self.index.num_words if patches else self.index.num_class_words
        return purity(words, labels, count, len(names))

    @cached_property
    def _labels(self) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Of each row of the index the label, and what the labels are called; none without any."""
        if not isinstance(self.images, LabelledImages):
            return np.zeros(0, np.int64), ()
        return np.asarray(self.images.labels, np.int64)[self.index.index], self.images.classes

    def of(self, ranking: Sequence[int], ranks: Sequence[int]) -> Iterator[Pattern]:
        """The patterns of the words at `ranks` of a ranking."""
        for rank in ranks:
            yield self.pattern(int(ranking[rank]), rank)

    def pattern(self, word: int, rank: int = 0) -> Pattern:
        """The best patches of a word, one an image, with what surrounds them."""
        told = self.index.statistics(self.kind)
        found = self.index.occurrences(word, self.kind)
        best = best_of_each_image(found.row, found.score)
        kept = first_bright(
            best.tolist(),
            self.top_k,
            lambda place: self._window(int(found.row[place]), int(found.patch[place])),
            DARK if self.kind == "patch" else -1,  # the published rule is one of windows
        )
        label, share = self._most_frequent(found.row)
        return Pattern(
            word=word,
            rank=rank,
            uses=int(told.uses[word]),
            images=int(told.images[word]),
            label=label,
            purity=share,
            members=tuple(
                self._member(found.row[i], found.patch[i], found.score[i]) for i, _ in kept
            ),
            windows=tuple(self._marked(window) for _, window in kept),
        )

    def _most_frequent(self, rows: NDArray[np.int64]) -> tuple[str, float | None]:
        labels, names = self._labels
        if not names or not len(rows):
            return "", None
        counts = np.bincount(labels[rows], minlength=len(names))
        return names[int(counts.argmax())], float(counts.max() / counts.sum())

    def _member(self, row: np.int64, patch: np.int64, score: np.float32) -> Member:
        image = int(self.index.index[row])
        down, across = divmod(int(patch), self.index.grid[1])
        return Member(image, self.images.name(image), down, across, float(score))

    def _window(self, row: int, patch: int) -> NDArray[np.uint8] | None:
        """None for an image that can no longer be read."""
        try:
            view = self.view(row)
        except UnreadableImage:
            return None
        if self.kind == "class":
            return view
        place = divmod(patch, self.index.grid[1])
        return window_around(view, place, self.patch * self.times, self.side)

    def _marked(self, window: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.kind == "class":
            return window
        mark = covered if self.centre == "cover" else framed
        return mark(window, self.patch * self.times)

    def view(self, row: int) -> NDArray[np.uint8]:
        """What the network saw of a row's image, `times` as many pixels a side.

        Raises UnreadableImage.
        """
        return self._views(row)

    @cached_property
    def _views(self):
        @lru_cache(maxsize=VIEWS)
        def view(row: int) -> NDArray[np.uint8]:
            image = self.images.read(int(self.index.index[row]))
            return as_rgb(self.index.view.enlarged(image, self.times))

        return view
