"""Some images of a set: by number, drawn from each class, or named by a published list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibot.data.sets import fingerprints
from ibot.data.sets.images import Images, LabelledImages, Pixels, Room, keys_of, read_into
from ibot.errors import DataError
from ibot.rng import permutation


class SubsetImages:
    """Some images of a set."""

    def __init__(self, base: Images, indices: ArrayLike) -> None:
        """`indices` int [m] into `base`, in any order. Raises ValueError for others."""
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
            raise ValueError(
                f"integer indices [m] are wanted, not {chosen.dtype} {list(chosen.shape)}"
            )
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(base):
            raise ValueError(
                f"indices {chosen.min()} to {chosen.max()} into a set of {len(base)} images"
            )
        self.base, self.indices = base, chosen.astype(np.int64)
        self.root, self.notes, self.channels = base.root, base.notes, base.channels
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(int(self.indices[index]))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives. Raises UnreadableImage."""
        return self.base.size(int(self.indices[index]))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.base.read(int(self.indices[index]))

    def read_into(self, index: int, room: Room) -> Pixels:
        """As `read`; the pixels lie in `room` where the base can read them there."""
        return read_into(self.base, int(self.indices[index]), room)

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint and the indices."""
        if not self._fingerprint:
            self._fingerprint = fingerprints.digest("subset", self.base.fingerprint(), self.indices)
        return self._fingerprint

    def keys(self) -> NDArray[np.uint64] | None:
        """uint64 [n, 2], as in the base."""
        found = keys_of(self.base)
        return None if found is None else found[self.indices]

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data; the hash is of the base's and the indices."""
        base = self.base.provenance()
        names = fingerprints.digest(str(base["names_sha256"]), self.indices)[:16]
        return {**base, "images": len(self), "names_sha256": names}


class LabelledSubset(SubsetImages):
    """Some images of a labelled set, with all of its classes."""

    base: LabelledImages

    def __init__(self, base: LabelledImages, indices: ArrayLike) -> None:
        """As `SubsetImages`."""
        super().__init__(base, indices)
        self.classes = base.classes
        self.labels: NDArray[np.int32] = base.labels[self.indices]

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])


def split_labelled(
    images: LabelledImages, share: float = 0.2, seed: int = 0
) -> tuple[LabelledSubset, LabelledSubset]:
    """Training and validation images: a `share` (0..1, exclusive) of each class, drawn by `seed`.

    Each class keeps an image for training, and gives one to validation if it has two.
    Raises DataError when no class has two images, ValueError for other shares.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share between 0 and 1, not {share}")
    counts = np.bincount(images.labels)
    val = _draw(images.labels, np.minimum(_rounded(counts, share), np.maximum(counts - 1, 0)), seed)
    if not len(val):
        raise DataError(
            f"'{images.root}' is too small for a validation part",
            why="no class has two images",
            fix="add images, or name a second set",
        )
    train = np.setdiff1d(np.arange(len(images)), val)
    return LabelledSubset(images, train), LabelledSubset(images, val)


def stratified_subset(
    labels: NDArray[np.integer[Any]],
    *,
    share: float | None = None,
    per_class: int | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Images drawn from each class by `seed`: int64 [m], ascending. At least one of each class.

    Args:
        labels: int [n], 0 or more.
        share: of each class, 0..1, rounded.
        per_class: images of each class, or all where there are fewer.
        seed: another one gives another subset.

    Raises:
        ValueError: not exactly one of `share` and `per_class`, or out of range.
    """
    counts = np.bincount(labels)
    if share is not None and per_class is None and 0 < share <= 1:
        return _draw(labels, _rounded(counts, share), seed)
    if per_class is not None and share is None and per_class >= 1:
        return _draw(labels, np.minimum(counts, per_class), seed)
    raise ValueError(
        f"either a share in 0..1 or images per class, not share={share}, per_class={per_class}"
    )


def _rounded(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    return np.minimum(np.maximum(np.floor(counts * share + 0.5).astype(np.int64), 1), counts)


def _draw(
    labels: NDArray[np.integer[Any]], wanted: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """The first `wanted` [classes] images of each class in a keyed order, ascending."""
    order = permutation(seed, 0, len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[rank < np.repeat(wanted, counts)])


def listed_subset(images: LabelledImages, list_file: str | Path) -> NDArray[np.int64]:
    """Images that a file names, one per line, in its order, repetitions left out: int64 [m].

    A line with a slash is a whole name (`images.name`). Others are file names; what stands before
    `_` in them is the class where there is such a class, as in SimCLRv2's `1percent.txt`.
    Raises DataError for names that the set lacks or holds several times, and for a list that is
    missing or empty.
    """
    try:
        text = Path(list_file).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(
            f"the list '{list_file}' cannot be read", why=why, fix="check the path"
        ) from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if name := line.strip().removeprefix("./"):
            lines.setdefault(name, number)
    if not lines:
        raise DataError(f"the list '{list_file}' is empty", fix="write one image name per line")
    found = _found(images, lines)
    if bad := [name for name in lines if len(found[name]) != 1]:
        several = len(found[bad[0]]) > 1
        raise DataError(
            f"line {lines[bad[0]]} of '{list_file}' names '{bad[0]}', of which there are "
            f"{len(found[bad[0]])}",
            why=f"{len(bad)} of {len(lines)} names do not stand for one image of '{images.root}'",
            fix="write paths relative to that folder"
            if several
            else "use the list that belongs to these images",
        )
    return np.array([found[name][0] for name in lines], np.int64)


def _found(images: LabelledImages, wanted: Iterable[str]) -> dict[str, list[int]]:
    """Where each of the names occurs."""
    found: dict[str, list[int]] = {name: [] for name in wanted}
    classes = {name: i for i, name in enumerate(images.classes)}
    for i in range(len(images)):
        whole = images.name(i)
        base = whole.rsplit("/", 1)[-1]
        if whole in found:
            found[whole].append(i)
        elif base in found and classes.get(base.split("_", 1)[0], images.label(i)) == images.label(
            i
        ):
            found[base].append(i)
    return found
