"""The words of one checkpoint over a set of images, mapped from their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.eval.features.entry import DONE, mapped, stored
from ibot.eval.features.views import View
from ibot.vocabulary.assign import Temperatures
from ibot.vocabulary.projection import Projection
from ibot.vocabulary.remedy import ABOUT
from ibot.vocabulary.statistics import Kind, Statistics

FEATURES = "features"
"""Folder of the rows, beside those of the indexes."""
COMPARED, BLOCK = 2**21, 2**16
"""Patches of a set that are all compared with one, and of them at a time."""
CANDIDATES = 1024
"""Of larger sets: best occurrences of a word that are compared with a patch."""
NEIGHBOURS = 15
"""Words beside its own in which patches like a patch are sought."""


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Patches, best first."""

    row: NDArray[np.int64]
    """int64 [m], rows of the index."""
    patch: NDArray[np.int64]
    """int64 [m], 0 to N - 1; 0 of class words."""
    score: NDArray[np.float32]
    """float32 [m], largest logit, or cosine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WordIndex:
    """Tables of n readable images of N patches each; none is in memory before it is read."""

    folder: Path
    """What belongs to this checkpoint alone."""
    name: str
    """"step 780", or the name of the file."""
    weights_hash: str
    """`weights_hash` of the backbone."""
    step: int | None
    images_seen: int | None
    view: View
    grid: tuple[int, int]
    """Rows h and columns w of the patches; patch p is in row p // w."""
    num_words: int
    """K', words of patches."""
    num_class_words: int
    """K."""
    temperatures: Temperatures
    """Those of the teacher, by which confidence and entropy are reckoned."""
    index: NDArray[np.int64]
    """int64 [n], number of each row's image in the set, rising; unreadable ones are missing."""
    words: NDArray[np.int32]
    """int32 [n, N]."""
    scores: NDArray[np.float16]
    """float16 [n, N], largest logits."""
    confidence: NDArray[np.float16]
    """float16 [n, N], probability of the word under softmax(logits / temperature), 0..1."""
    entropy: NDArray[np.float16]
    """float16 [n, N], of those probabilities, nats."""
    compact: NDArray[np.int8]
    """int8 [n, N, d], tokens through `projection`."""
    cls: NDArray[np.float32]
    """float32 [n, D], class tokens."""
    class_words: NDArray[np.int32]
    """int32 [n]."""
    class_scores: NDArray[np.float16]
    """float16 [n]."""
    class_confidence: NDArray[np.float16]
    """float16 [n]."""
    class_entropy: NDArray[np.float16]
    """float16 [n]."""

    @classmethod
    def open(cls, folder: Path, view: View, grid: tuple[int, int]) -> WordIndex:
        """Map the index that lies in `folder`. Raises OSError, ValueError or KeyError for a damaged
        one.
        """
        about = json.loads((folder / ABOUT).read_text())
        rows = {name: folder.parent / FEATURES / path for name, path in about["features"].items()}
        tables = {name: stored(path)[0] for name, path in rows.items()}
        words, compact, of_class = tables["words"], tables["compact"], tables["class_numbers"]
        return cls(
            folder=folder,
            name=about["name"],
            weights_hash=about["weights_hash"],
            step=about["step"],
            images_seen=about["images_seen"],
            view=view,
            grid=grid,
            num_words=about["num_words"],
            num_class_words=about["num_class_words"],
            temperatures=Temperatures(**about["temperatures"]),
            index=np.flatnonzero(mapped(rows["words"] / "state.npy", "r") == DONE),
            words=words,
            scores=tables["scores"],
            confidence=tables["confidence"],
            entropy=tables["entropy"],
            cls=tables["cls"],
            compact=compact.reshape(*words.shape, -1),
            class_words=tables["class_words"][:, 0],
            class_scores=of_class[:, 0],
            class_confidence=of_class[:, 1],
            class_entropy=of_class[:, 2],
        )

    @cached_property
    def projection(self) -> Projection:
        """What makes `compact` of patch tokens, those of images outside of the set included."""
        return Projection.load(self.folder / "projection.npz")

    def row_of(self, image: int) -> int | None:
        """The row of an image of the set; None for one that could not be read."""
        row = int(np.searchsorted(self.index, image))
        return row if row < len(self.index) and self.index[row] == image else None

    def statistics(self, kind: Kind = "patch") -> Statistics:
        """How each word of patches, or of class tokens, is used."""
        return self._statistics[kind]

    @cached_property
    def _statistics(self) -> dict[str, Statistics]:
        return {
            kind: Statistics.load(self.folder / f"{kind}_statistics.npz")
            for kind in ("patch", "class")
        }

    def occurrences(self, word: int, kind: Kind = "patch", limit: int | None = None) -> Occurrences:
        """Where a word occurs, the best score first, equal ones by row, then patch.

        limit: so many of the best; None: all. Raises IndexError for a number that is no word.
        """
        starts, rows, patches = self._postings[kind]
        if not 0 <= word < len(starts) - 1:
            raise IndexError(f"word {word} of {len(starts) - 1}")
        start, end = int(starts[word]), int(starts[word + 1])
        end = end if limit is None else min(end, start + limit)
        row, patch = (np.asarray(part[start:end], np.int64) for part in (rows, patches))
        table = self.scores if kind == "patch" else self.class_scores[:, None]
        return Occurrences(row, patch, table[row, patch].astype(np.float32))

    @cached_property
    def _postings(self) -> dict[str, tuple[Any, ...]]:
        return {
            kind: tuple(
                mapped(self.folder / f"{kind}_{part}.npy", "r")
                for part in ("starts", "rows", "places")
            )
            for kind in ("patch", "class")
        }

    def neighbours(
        self, word: int, k: int, kind: Kind = "patch"
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k other words whose prototypes are nearest: words [k], cosines [k] falling.

        Prototypes are the rows of the last layer through which those tokens go; of a head without
        bottleneck, of its linear layer. Equal cosines by word.
        """
        table = self._prototypes[kind]
        cosine = table @ table[word]
        cosine[word] = -np.inf
        order = np.argsort(-cosine, kind="stable")[: min(k, len(cosine) - 1)]
        return order, np.clip(cosine[order], -1, 1)

    @cached_property
    def _prototypes(self) -> dict[str, NDArray[np.float32]]:
        patch, cls = (self.folder / f"{kind}_prototypes.npy" for kind in ("patch", "class"))
        table = mapped(patch, "r")
        return {"patch": table, "class": mapped(cls, "r") if cls.is_file() else table}

    def similar(self, row: int, patch: int, k: int) -> Occurrences:
        """The k images beside its own with a patch most like this one; see `similar_to`."""
        word, compact = int(self.words[row, patch]), np.array(self.compact[row, patch])
        return self.similar_to(compact, word, k, without=row)

    def similar_to(
        self, compact: NDArray[np.int8], word: int, k: int, without: int = -1
    ) -> Occurrences:
        """The best patch of each of the k images with patches most like a token.

        Sought among all patches; of sets with more than two million among the 1024 best
        occurrences each of its word and of the 15 nearest words. Scores are the cosines that follow
        from the compact features (`Projection.cosines`), equal ones in order of row, then patch.

        Args:
            compact: int8 [d], the token through `projection`.
            word: what was assigned to it.
            k: answers at most.
            without: a row that is no answer.
        """
        if self.words.size <= COMPARED:
            row, patch, cosine = self._most_like(compact)
        else:
            row, patch, cosine = self._like_among_near(compact, word)
        order = np.lexsort((patch, row, -cosine))
        order = order[row[order] != without]
        _, first = np.unique(row[order], return_index=True)
        best = order[np.sort(first)[:k]]
        return Occurrences(row[best], patch[best], cosine[best])

    def _most_like(self, compact: NDArray[np.int8]) -> tuple[NDArray[Any], ...]:
        """Of every row the patch most like a token: row, patch and cosine, [n] each."""
        images, patches = self.words.shape
        found = []
        for start in range(0, images, rows := max(1, BLOCK // patches)):
            part = self.compact[start : start + rows]
            cosine = self.projection.cosines(compact, part.reshape(-1, part.shape[-1]))
            cosine = cosine.reshape(len(part), patches)
            best = cosine.argmax(axis=1)
            found.append((best, np.take_along_axis(cosine, best[:, None], axis=1)[:, 0]))
        patch, value = (np.concatenate(column) for column in zip(*found, strict=True))
        return np.arange(images), patch, value

    def _like_among_near(self, compact: NDArray[np.int8], word: int) -> tuple[NDArray[Any], ...]:
        """Patches of a word and those near it: row, patch and cosine to a token, [m] each."""
        near = [word, *self.neighbours(word, NEIGHBOURS)[0].tolist()]
        found = [self.occurrences(one, limit=CANDIDATES) for one in near]
        row = np.concatenate([part.row for part in found])
        patch = np.concatenate([part.patch for part in found])
        return row, patch, self.projection.cosines(compact, self.compact[row, patch])
