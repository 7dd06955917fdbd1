"""Labelled image sets for evaluations: one file per image, inside of tar archives, in memory, and
subsets of these.

All answer the same calls (`LabelledImages`). None holds open files, so that they can be pickled,
forked and read from several threads. A set is taken to stay as it is: its fingerprint is computed
once, and a pickled set takes it along.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibot.config.schema import MAX_PIXELS
from ibot.data.decode import Orientation, UnreadableImage, decode_file
from ibot.data.sets.classes import match_classes
from ibot.data.sets.scan import ImageSource

Part = Literal["train", "val"]
TIFF_LEVELS = "levels 2"
"""Changed when TIFF files are read to other levels than before, so that what was computed of
those serves no more."""


@runtime_checkable
class LabelledImages(Protocol):
    """Images in a fixed order, each with a class. Can be pickled."""

    @property
    def root(self) -> Path:
        """Folder that the names are relative to."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [n]."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called, relative to the root."""
        ...

    def label(self, index: int) -> int:
        """Class of an image."""
        ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, names, labels, and the state of the files or the pixels
        in memory.

        As it was at the first call: changes are seen by sets made after them.
        """
        ...


Images = TypeVar("Images", bound=LabelledImages)


@dataclass(frozen=True, slots=True, eq=False)
class FileImages:
    """One file per image. Raises ValueError for a source without labels."""

    source: ImageSource
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""
    kind: ClassVar[str] = "files"

    def __post_init__(self) -> None:
        if self.source.labels is None:
            raise ValueError(f"the images under '{self.source.root}' have no labels")

    @property
    def root(self) -> Path:
        """Folder that the names are relative to."""
        return self.source.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int32]:
        """int32 [n]."""
        assert self.source.labels is not None
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """Path of an image relative to the root."""
        return self.source.name(index)

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.source.read(index)

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, names, labels, and sizes and times of the files: one
        stat for each.

        Images that are not turned upright, or are refused from another size on, are others, and so
        is a set whose levels an earlier version read otherwise.
        """
        if not self._known:
            source = self.source
            other = () if source.exif_orientation == "apply" else (source.exif_orientation,)
            if source.max_pixels != MAX_PIXELS:
                other = (*other, str(source.max_pixels))
            if b".tif" in source.names.lower():
                other = (*other, TIFF_LEVELS)
            self._known.append(
                _digest(
                    self.kind,
                    *self.classes,
                    source.names,
                    source.ends,
                    self.labels,
                    self._state(),
                    *other,
                )
            )
        return self._known[0]

    def _state(self) -> NDArray[np.int64]:
        root = str(self.root)
        return _file_state(os.path.join(root, self.name(i)) for i in range(len(self)))  # noqa: PTH118 - speed


@dataclass(frozen=True, slots=True, eq=False)
class FolderImages(FileImages):
    """Images whose first-level folders are the classes; see `labelled_folders.open_folder`."""

    kind: ClassVar[str] = "folder"


@dataclass(frozen=True, slots=True, eq=False)
class ListedImages(FileImages):
    """Image files with labels from a list; see `labelled_lists.open_list`."""

    kind: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True, eq=False)
class TarImages(FileImages):
    """Images inside of tar archives, named `ARCHIVE.tar/path/in/it`; see
    `labelled_tars.open_tars`.
    """

    archives: tuple[str, ...]
    """Relative to the root."""
    places: NDArray[np.int64]
    """int64 [n, 3]: number of the archive, first byte and bytes of each image."""
    kind: ClassVar[str] = "tar"

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return decode_file(
            io.BytesIO(self.content(index)), self.source.exif_orientation, self.source.max_pixels
        )

    def content(self, index: int) -> bytes:
        """The file of an image. Raises UnreadableImage."""
        archive, start, size = self.places[index].tolist()
        try:
            # Opened anew each time: a handle kept over a fork would share its position with the
            # other workers.
            with (self.root / self.archives[archive]).open("rb") as file:
                file.seek(start)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
        if len(content) < size:
            raise UnreadableImage("truncated")
        return content

    def _state(self) -> NDArray[np.int64]:
        return np.vstack(
            [_file_state(str(self.root / name) for name in self.archives), self.places[:, 1:]]
        )


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImages:
    """Images in memory, named by part and number."""

    root: Path
    part: str
    pixels: NDArray[np.uint8]
    """uint8 [n, H, W, 3]."""
    labels: NDArray[np.int32]
    """int32 [n]."""
    classes: tuple[str, ...]
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """Part and number, as in `test/00042`."""
        return f"{self.part}/{index:05d}"

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """A copy of the pixels of an image, uint8 [H, W, 3]."""
        return self.pixels[index].copy()

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, part, labels and pixels."""
        if not self._known:
            self._known.append(_digest("array", *self.classes, self.part, self.labels, self.pixels))
        return self._known[0]


class SubsetImages:
    """Some images of a set, with all of its classes."""

    def __init__(self, base: LabelledImages, indices: ArrayLike) -> None:
        """`indices` int [m] into `base`, in any order. Raises ValueError for other shapes and for
        what lies outside.
        """
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
        self.root, self.classes = base.root, base.classes
        self.labels: NDArray[np.int32] = base.labels[self.indices]
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name in the base."""
        return self.base.name(int(self.indices[index]))

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.base.read(int(self.indices[index]))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's fingerprint and the indices."""
        if not self._fingerprint:
            self._fingerprint = _digest("subset", self.base.fingerprint(), self.indices)
        return self._fingerprint


def read_as(images: Images, exif_orientation: Orientation, max_pixels: int) -> Images:
    """The same images, turned upright by their EXIF tags or not, and refused where they have more
    pixels.

    Those in memory stay as they are.
    """
    if isinstance(images, SubsetImages):
        return type(images)(read_as(images.base, exif_orientation, max_pixels), images.indices)
    if not isinstance(images, FileImages):
        return images
    return replace(
        images,
        source=replace(images.source, exif_orientation=exif_orientation, max_pixels=max_pixels),
    )


def matched(images: Images, classes: tuple[str, ...], where: tuple[str, str]) -> Images:
    """The same images with the classes of the training images, some of which they may lack; see
    `match_classes`.
    """
    if images.classes == classes:
        return images
    return relabelled(images, match_classes(classes, images.classes, where), classes)


def relabelled(images: Images, number: NDArray[np.int32], classes: tuple[str, ...]) -> Images:
    """The same images with other classes: class i becomes number[i] of `classes`."""
    if isinstance(images, SubsetImages):
        return type(images)(relabelled(images.base, number, classes), images.indices)
    if isinstance(images, FileImages):
        return replace(
            images, source=replace(images.source, labels=number[images.labels], classes=classes)
        )
    assert isinstance(images, ArrayImages)
    return replace(images, labels=number[images.labels], classes=classes)


def notes(images: LabelledImages) -> tuple[str, ...]:
    """What a user should know of what was and was not taken, a sentence each."""
    if isinstance(images, SubsetImages):
        return notes(images.base)
    return images.source.notes if isinstance(images, FileImages) else ()


def count_shared(train: LabelledImages, val: LabelledImages) -> int:
    """How many files of `val` are in `train` too; 0 for images in memory and in archives."""
    if not (_are_files(train) and _are_files(val)):
        return 0
    roots = train.root.resolve(), val.root.resolve()
    if not (roots[0].is_relative_to(roots[1]) or roots[1].is_relative_to(roots[0])):
        return 0
    return len(set(_paths(val, roots[1])).intersection(_paths(train, roots[0])))


def _are_files(images: LabelledImages) -> bool:
    if isinstance(images, SubsetImages):
        return _are_files(images.base)
    return isinstance(images, FileImages) and not isinstance(images, TarImages)


def _paths(images: LabelledImages, root: Path) -> Iterator[str]:
    start = str(root)
    return (os.path.join(start, images.name(i)) for i in range(len(images)))  # noqa: PTH118 - speed


def number_classes(texts: Sequence[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels int32 [n] and the classes in order: by value where all are numbers, so that 10 follows
    9.
    """
    classes = sorted(set(texts))
    if all(text.isascii() and text.isdigit() for text in classes):
        classes.sort(key=int)
    number = {text: i for i, text in enumerate(classes)}
    return np.fromiter((number[text] for text in texts), np.int32, len(texts)), tuple(classes)


def _file_state(paths: Iterable[str]) -> NDArray[np.int64]:
    """Size in bytes and time of change in ns, int64 [n, 2]; -1 for files that are not there."""
    states = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - this runs over millions of files
            states.append((status.st_size, status.st_mtime_ns))
        except OSError:
            states.append((-1, -1))
    return np.array(states, np.int64).reshape(-1, 2)


def _digest(*parts: str | bytes | NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = os.fsencode(part) if isinstance(part, str) else bytes(part)
        digest.update(len(content).to_bytes(8, "little"))  # keeps the parts apart
        digest.update(content)
    return digest.hexdigest()
