"""All indexes of a folder: the checkpoints of one training, over one set of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ibot.errors import DataError, UserError
from ibot.vocabulary.folder import Shared
from ibot.vocabulary.life import Life, Lives, lives_of
from ibot.vocabulary.statistics import Kind
from ibot.vocabulary.word_index import ABOUT, WordIndex


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What `open_index` gives. More than one thread may read it."""

    folder: Path
    shared: Shared
    """Images, view and training that all of them have in common."""
    indexes: list[WordIndex]
    """Oldest first; at least one."""

    @property
    def images(self) -> str:
        """Fingerprint of the set."""
        return self.shared.images

    @property
    def root(self) -> str:
        """Where the images lay, as it was named."""
        return self.shared.root

    def of(self, weights_hash: str) -> WordIndex:
        """The index of weights. Raises UserError where there is none."""
        for index in self.indexes:
            if index.weights_hash == weights_hash:
                return index
        names = ", ".join(index.name for index in self.indexes)
        raise UserError(
            f"the index in '{self.folder}' is of other weights",
            why=f"it is of '{self.shared.run}': {names}",
            fix="add these weights with the same command of  ibot index, or name those",
        )

    def lives(self, kind: Kind = "patch") -> Lives:
        """The lives of all words; computed at the first call, in one pass over their words."""
        return self._lives_of_patches if kind == "patch" else self._lives_of_classes

    @cached_property
    def _lives_of_patches(self) -> Lives:
        return lives_of(self.indexes, "patch")

    @cached_property
    def _lives_of_classes(self) -> Lives:
        return lives_of(self.indexes, "class")

    def life(self, word: int, kind: Kind = "patch") -> Life:
        """The life of a word. Raises IndexError for a number that is no word."""
        lives = self.lives(kind)
        if not 0 <= word < len(lives.born):
            raise IndexError(f"word {word} of {len(lives.born)}")
        born, died = int(lives.born[word]), int(lives.died[word])
        return Life(
            uses=lives.uses[:, word],
            images=lives.images[:, word],
            confidence=lives.confidence[:, word],
            overlap=lives.overlap[:, word],
            born=None if born < 0 else born,
            died=None if died < 0 else died,
        )


def open_index(folder: str | Path) -> Vocabulary:
    """Map all whole indexes of a folder; reads neither images nor weights.

    Raises DataError where there is none, or one is damaged.
    """
    folder = Path(folder)
    shared = Shared.read(folder)
    places = [about.parent for about in folder.glob(f"*/{ABOUT}")]
    if not places:
        raise DataError(
            f"no index in '{folder}' is whole",
            why="what makes it is under way, or was interrupted",
            fix="wait for it, or run the same command of  ibot index  again: it goes on",
        )
    indexes = [open_one(place, shared) for place in places]
    newest = float("inf")
    indexes.sort(key=lambda one: (newest if one.step is None else one.step, one.name))
    return Vocabulary(folder, shared, indexes)


def open_one(place: Path, shared: Shared) -> WordIndex:
    """Map one index. Raises DataError."""
    try:
        return WordIndex.open(place, shared.view, shared.grid)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"the index in '{place}' cannot be read",
            why=str(error),
            fix="delete that folder, and make it again with  ibot index",
        ) from None
