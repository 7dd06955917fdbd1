"""Which folder, archive or split of a list is the training part of a set, and which is held out."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ibot.data.formats import is_litter
from ibot.data.sets.fingerprints import State, is_settled, state_of
from ibot.errors import DataError, printable
from ibot.words import counted

PartName = Literal["train", "val", "test"]
Part = Literal["train", "val"]
"""What is opened; where there is no `val`, the part called `test` serves."""
WORDS: dict[PartName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What the parts are called (Keras, Roboflow, Hugging Face, torchvision); small and capital
letters are the same."""
LARGE = 10_000
"""Entries of a folder from which on its folders are remembered while it is as it was: opening a set
asks for them several times."""
_large: dict[str, tuple[State, tuple[str, ...]]] = {}
_ANY_WORD = "|".join(word for words in WORDS.values() for word in words)
_NAME = re.compile(rf"({_ANY_WORD})[\W_]*(?:set|images|data|\d*)")


def part_of(name: str) -> PartName | None:
    """The part that a name means, as `valid`, `Val`, `test_set` or `val2017`; None for others."""
    found = _NAME.fullmatch(name.lower())
    return next((part for part, words in WORDS.items() if found and found[1] in words), None)


ONLY_TRAINING = "only the training part"
"""Begins what is said of a set with others."""
ONE_OF_HELD = "of the parts held out"
"""Begins what is said of a set with several."""


def part_note(part: Part, read: str, beside: Iterable[str]) -> list[str]:
    """A sentence on what is read of a set with parts, and what lies beside it; none of nothing."""
    names = quoted(beside)
    if names == "none":
        return []
    if part == "train":
        return [f"{ONLY_TRAINING} '{read}' is read; beside it {names}"]
    return [f"{ONE_OF_HELD} '{read}' is read; not read: {names}"]


def split_note(splits: Sequence[str], part: Part | None) -> list[str]:
    """The same of rows, by the split that each of them names."""
    if part is None:
        return []
    counts = Counter(splits)
    read = {splits[row] for row in rows_of_part(splits, part)}
    left = [
        f"{word or 'without a split'} ({counted(count, 'row')})"
        for word, count in counts.items()
        if word not in read and (part == "train" or part_of(word) != "train")
    ]
    return part_note(part, " and ".join(sorted(read)), left)


def rows_of_part(splits: Sequence[str], part: Part | None) -> list[int]:
    """Which rows of a list belong to a part, by the split that each of them names.

    Without splits all are training rows; without a part all are taken.
    """
    parts = [part_of(split) for split in splits]
    if part is None or (part == "train" and set(parts) == {None}):
        return list(range(len(parts)))
    wanted = "test" if part == "val" and "val" not in parts else part
    return [i for i, found in enumerate(parts) if found == wanted]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that lie in a folder: one for training, at least one held out."""

    train: Path
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    beside: tuple[str, ...]
    """Names of all folders but the training part."""

    def left(self, chosen: Path) -> tuple[str, ...]:
        """Names of those held out but the chosen one."""
        return tuple(path.name for path in (*self.val, *self.test) if path != chosen)

    def validation(self) -> Path:
        """The part called validation, else the one called test. Raises DataError for two."""
        held = self.val or self.test
        return _only_one(held, "validation", f"--data {self.train} --val-data {held[0]}")


def find_parts(folder: Path) -> Parts | None:
    """The parts that lie in `folder`; None without a training part or without one held out.

    Raises DataError where it cannot be told what is a part and what a class.
    """
    names = folder_names(folder)
    by_part = {
        part: tuple(folder / name for name in names if part_of(name) == part) for part in WORDS
    }
    held = by_part["val"] + by_part["test"]
    if not held:
        return None
    others = [name for name in names if part_of(name) is None]
    if not by_part["train"]:
        _require_no_loose_parts(folder, held, others)
        return None
    train = _only_one(by_part["train"], "training", f"--data {by_part['train'][0]}")
    if len(others) > 1 and _is_flat(train) and all(_is_flat(folder / name) for name in others):
        raise DataError(
            f"'{train.name}' and '{held[0].name}' in '{folder}' may be parts of a set or classes "
            "like the others",
            why=f"they hold images and no folders, and so do {quoted(others)} beside them",
            fix=f"name the part itself (--data {train}), or give folders that are classes other "
            "names",
        )
    return Parts(
        train, by_part["val"], by_part["test"], tuple(name for name in names if name != train.name)
    )


def _require_no_loose_parts(folder: Path, held: tuple[Path, ...], others: list[str]) -> None:
    """Raise DataError for a held-out part beside folders that it repeats, and for several alone."""
    for part in held:
        if shared := sorted(set(folder_names(part)).intersection(others)):
            raise DataError(
                f"'{part}' seems to be held out from what lies beside it",
                why=f"it repeats the folders {quoted(shared)} of '{folder}'",
                fix=f"move the training images into '{folder / 'train'}', or the held-out part "
                "elsewhere",
            )
    if len(held) > 1 and not others:
        raise DataError(
            f"'{folder}' has no training part",
            why=f"it holds the parts {quoted(part.name for part in held)} alone",
            fix=f"name the part itself, such as {held[0]}",
        )


def _only_one(candidates: tuple[Path, ...], kind: str, fix: str) -> Path:
    """The one of several folders that is not empty. Raises DataError where there are more."""
    by_place = {
        path.resolve(): path for path in sorted(candidates, key=Path.is_symlink, reverse=True)
    }
    candidates = tuple(by_place.values())  # without links to each other
    filled = (
        candidates
        if len(candidates) == 1
        else tuple(path for path in candidates if _holds_files(path))
    )
    if len(filled) > 1:
        raise DataError(
            f"'{filled[0].parent}' has more than one {kind} part",
            why=f"{quoted(path.name for path in filled)} all mean one",
            fix=f"name the parts: {fix}",
        )
    return filled[0] if filled else candidates[0]


def folder_names(folder: Path) -> list[str]:
    """The folders in a folder but those of systems, sorted; none where `scan` will say why."""
    try:
        state, began = state_of(os.stat(folder)), time.time()  # noqa: PTH116
        known = _large.get(os.path.abspath(folder))  # noqa: PTH100
        if known is not None and known[0] == state:
            return list(known[1])
        entries, found = 0, []
        with os.scandir(folder) as listing:
            for entry in listing:
                entries += 1
                if is_folder(entry) and not is_litter(entry.name, True):
                    found.append(entry.name)
    except OSError:
        return []
    found.sort()
    if entries >= LARGE and is_settled([state], began):
        _large[os.path.abspath(folder)] = state, tuple(found)  # noqa: PTH100
    return found


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is one that can be entered."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that must not be read
        return False


def _is_flat(folder: Path) -> bool:
    return _holds_files(folder) and not folder_names(folder)


def _holds_files(folder: Path) -> bool:
    return any(not name.startswith(".") for _, _, names in os.walk(folder) for name in names)


def quoted(names: Iterable[str], limit: int = 5) -> str:
    """The first names in order, and how many more there are; 'none' without any."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if ordered[limit:] else ""
    return ", ".join(f"'{printable(name)}'" for name in ordered[:limit]) + more or "none"
