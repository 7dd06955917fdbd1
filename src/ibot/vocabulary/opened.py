"""All indexes of a folder: the checkpoints of one training, over one set of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ibot.errors import DataError, UserError
from ibot.vocabulary.folder import Shared
from ibot.vocabulary.life import Life, Lives, lives_of
from ibot.vocabulary.remedy import ABOUT, Remedy
from ibot.vocabulary.statistics import Kind
from ibot.vocabulary.word_index import WordIndex


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

    def of(self, weights_hash: str, remedy: Remedy | None = None) -> WordIndex:
        """The index of weights. Raises UserError, with the remedy, where there is none."""
        for index in self.indexes:
            if index.weights_hash == weights_hash:
                return index
        names = ", ".join(index.name for index in self.indexes)
        raise UserError(
            f"the index in '{self.folder}' is of other weights",
            why=f"it is of '{self.shared.run}': {names}",
            fix=f"name those, or add these:  {(remedy or Remedy()).make}",
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


def open_index(folder: str | Path, remedy: Remedy | None = None) -> Vocabulary:
    """Map all whole indexes of a folder; reads neither images nor weights.

    Raises DataError, with the remedy, where there is none, or one is damaged.
    """
    folder, remedy = Path(folder), remedy or Remedy()
    shared = Shared.read(folder, remedy)
    places = [about.parent for about in folder.glob(f"*/{ABOUT}")]
    if not places:
        raise DataError(
            f"no index in '{folder}' is whole",
            why="what makes it is under way, or was interrupted",
            fix=f"wait for it, or go on with it:  {remedy.make}",
        )
    indexes = [open_one(place, shared, remedy) for place in places]
    newest = float("inf")
    indexes.sort(key=lambda one: (newest if one.step is None else one.step, one.name))
    return Vocabulary(folder, shared, indexes)


def open_one(place: Path, shared: Shared, remedy: Remedy | None = None) -> WordIndex:
    """Map one index. Raises DataError, with the remedy."""
    try:
        return WordIndex.open(place, shared.view, shared.grid)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"the index in '{place}' cannot be read",
            why=str(error),
            fix=f"make it again:  {(remedy or Remedy()).renew(place.parent)}",
        ) from None
