"""Classes by name: their numbers, and those of validation images among those of training."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ibot.data.sets.parts import quoted
from ibot.errors import DataError


def number_classes(
    texts: Sequence[str], *, folders: bool = False
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels int32 [n] and the classes in order: by value where all are numbers (9 before 10), but
    as text where they are names of `folders`, so that shards have the order of what they hold.
    """
    classes = sorted(set(texts))
    if not folders and all(text.isascii() and text.isdigit() for text in classes):
        classes.sort(key=int)
    number = {text: i for i, text in enumerate(classes)}
    return np.fromiter((number[text] for text in texts), np.int32, len(texts)), tuple(classes)


def match_classes(
    train: Sequence[str], val: Sequence[str], where: tuple[str, str]
) -> NDArray[np.int32]:
    """For each class of `val` its number in `train`, int32 [classes of val].

    Names that Unicode takes for the same (a letter with its accent, or followed by it) match. The
    validation images may lack classes. `where` says where the two sets come from.
    Raises DataError when `val` has a class that `train` lacks, and says which names look alike.
    """
    number = {unicodedata.normalize("NFC", name): i for i, name in enumerate(train)}
    number |= {name: i for i, name in enumerate(train)}
    found = [number.get(name, number.get(unicodedata.normalize("NFC", name), -1)) for name in val]
    if extra := [name for name, i in zip(val, found, strict=True) if i < 0]:
        unused = [name for i, name in enumerate(train) if i not in found]
        raise DataError(
            f"the training and validation images have different classes ('{where[0]}', "
            f"'{where[1]}')",
            why=f"only in training: {quoted(unused)}; only in validation: {quoted(extra)}"
            + _alike(train, extra),
            fix="leave these classes out of the validation images, or give both the same names",
        )
    return np.array(found, np.int32)


def absent_classes(labels: NDArray[np.int32], classes: Sequence[str]) -> list[str]:
    """The classes that no image has."""
    counts = np.bincount(labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]


def absent_note(labels: NDArray[np.int32], classes: Sequence[str]) -> str:
    """A sentence on the classes that the validation images lack; empty where all occur."""
    absent = absent_classes(labels, classes)
    if not absent:
        return ""
    return (
        f"{len(absent)} of {len(classes)} classes have no validation images and are not "
        f"scored: {quoted(absent)}"
    )


def twins_note(classes: Sequence[str]) -> list[str]:
    """A sentence on classes whose names Unicode takes for the same."""
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(unicodedata.normalize("NFC", name), name), name) for name in classes]
    twins = "; ".join(f"{one!a} and {other!a}" for one, other in pairs if one != other)
    return [f"classes whose names are the same to the eye count as two: {twins}"] if twins else []


def _alike(train: Sequence[str], val: Sequence[str]) -> str:
    """Names that differ in what is hardly seen, with it written out."""
    keys = {_key(name): name for name in train}
    pairs = [(keys[_key(name)], name) for name in val if _key(name) in keys]
    return "".join(f"; {one!a} and {other!a} look alike" for one, other in pairs[:3])


def _key(name: str) -> str:
    """The same for names that differ in case, spaces, invisible letters or composition only."""
    letters = unicodedata.normalize("NFKC", name)
    shown = "".join(
        letter for letter in letters if unicodedata.category(letter) not in ("Cf", "Cc")
    )
    return "".join(shown.casefold().split())
