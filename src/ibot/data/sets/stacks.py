"""Images stacked in arrays [N, H, W, C] or [N, H, W]: .npy files and zarr arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import RGB
from ibot.data.channels.levels import LARGEST_WHOLE, Levels, names_of, to_levels
from ibot.data.channels.stored import Header
from ibot.data.decode import UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.npy_stack import open_npy
from ibot.data.sets.parts import quoted
from ibot.data.sets.places import form_of
from ibot.data.sets.stack_labels import find_labels
from ibot.data.sets.zarr_stack import open_zarr
from ibot.errors import DataError
from ibot.words import counted, sides

ALPHA = 4
"""Channels of colour pictures with transparency, which is left out."""
COLOURS_OF_FOUR = "the first three of 4 channels are read as colours, the fourth left out"
"""Begins what is said of them, which is not true where all channels are read."""
_FEW = 4
"""Most channels of pictures; an axis so short beside others is theirs."""
_SIDE = 8
"""Shortest side of pictures whose channels are taken to come first."""


class Stack(Protocol):
    """An array with an image in each entry of its first axis; pickled without open files."""

    @property
    def name(self) -> str:
        """Relative to the root of the set."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the whole array."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it, a sentence each."""
        ...

    def entry(self, root: Path, index: int) -> NDArray[Any]:
        """A copy of an entry. Raises UnreadableImage."""
        ...

    def state(self, root: Path) -> NDArray[np.int64]:
        """What changes when its files do, for a fingerprint."""
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StackImages:
    """Images in stacks, one after the other, named by stack and number.

    Those of bytes in one, three or four channels are colour pictures; of others `read` gives
    nothing, and `levels` all.
    """

    root: Path
    stacks: tuple[Stack, ...]
    ends: NDArray[np.int64]
    """int64 [number of stacks], images up to the end of each."""
    first: bool
    """Whether an entry is [C, H, W], else [H, W, C] or [H, W]."""
    no_data: tuple[float, ...] = ()
    """Values that mean that nothing was measured, in `levels`."""
    notes: tuple[str, ...] = ()
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Red, green, blue; of other stacks than of colour pictures the numbers of the channels."""
        return RGB if self.colour else self._names()

    @property
    def colour(self) -> bool:
        """Whether these are colour pictures, with alpha or without, or gray ones of 8 bits."""
        stack = self.stacks[0]
        return stack.dtype == np.uint8 and _channels(stack, self.first) in (1, len(RGB), ALPHA)

    @property
    def content(self) -> str:
        """Channels and type of an image, in words."""
        stack = self.stacks[0]
        return f"{counted(_channels(stack, self.first), 'channel')} of type {stack.dtype}"

    def __len__(self) -> int:
        return int(self.ends[-1])

    def name(self, index: int) -> str:
        """Stack and number, as in `digits.npy/00042`."""
        stack, entry = self._place(index)
        return f"{stack.name}/{entry:05d}"

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels."""
        shape = self._place(index)[0].shape
        return (shape[2], shape[3]) if self.first else (shape[1], shape[2])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage, also for other channels."""
        if not self.colour:
            raise UnreadableImage(self.content, "data.channels=all reads them")
        values = self._values(index)
        if values.shape[2] == 1:
            return np.repeat(values, len(RGB), axis=2)
        return np.ascontiguousarray(values[..., : len(RGB)])

    def header(self, index: int) -> Header:
        """Size and channels of an image."""
        return Header(*self.size(index), self._names())

    def levels(self, index: int, only: Sequence[str] = ()) -> Levels:
        """An image as it is stored, as levels float32 [H, W, C]; NaN where nothing was measured.

        Raises UnreadableImage.
        """
        return Levels(to_levels(self._values(index), no_data=self.no_data), self._names())

    def fingerprint(self) -> str:
        """SHA-256 in hex of classes, labels, shapes, names, and sizes and times of the files."""
        if not self._known:
            classes, labels = self._labelling()
            states = [stack.state(self.root) for stack in self.stacks]
            about = "stacks", *classes, labels, *self._shapes(), *states
            self._known.append(fingerprints.digest(*about))
        return self._known[0]

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data: root, images, classes, a hash of the stacks' names, types
        and shapes.
        """
        return {
            "root": str(self.root),
            "images": len(self),
            "classes": 0,
            "names_sha256": fingerprints.digest(*self._shapes())[:16],
        }

    def _names(self) -> tuple[str, ...]:
        """Of the channels as they are stored."""
        count = _channels(self.stacks[0], self.first)
        return RGB if self.colour and count == len(RGB) else names_of(count)

    def _shapes(self) -> list[str]:
        return [f"{stack.name} {stack.dtype.str} {list(stack.shape)}" for stack in self.stacks]

    def _place(self, index: int) -> tuple[Stack, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.stacks[number], index - int(self.ends[number - 1] if number else 0)

    def _values(self, index: int) -> NDArray[Any]:
        """Values of an image as they are stored, [H, W, C]."""
        stack, entry = self._place(index)
        values = stack.entry(self.root, entry)
        if values.ndim == 2:
            return values[..., None]
        return np.ascontiguousarray(np.moveaxis(values, 0, -1)) if self.first else values

    def _labelling(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return ("",), np.zeros(len(self), np.int32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelledStacks(StackImages):
    """Images in stacks, with a class each."""

    labels: NDArray[np.int32]
    """int32 [n], index into `classes`."""
    classes: tuple[str, ...]

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def provenance(self) -> dict[str, object]:
        """As of images without labels, with the number of classes."""
        return {**StackImages.provenance(self), "classes": len(self.classes)}

    def _labelling(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return self.classes, self.labels


def open_stacks(paths: Sequence[Path]) -> StackImages:
    """Images of .npy files and zarr arrays, all of one type and number of channels.

    Entries are [H, W, C] or [H, W]; [C, H, W] where the first of these axes is short and the others
    are not, which a note says. Labels: see `stack_labels.find_labels`; where there are some, what
    comes back are `LabelledStacks`.

    Raises:
        DataError: arrays of objects or other axes, damaged or empty files, labels that do not fit.
        MissingExtra: zarr is not installed.
    """
    root = Path(os.path.commonpath([path.parent for path in paths]))
    stacks = [_open(root, path) for path in paths]
    for stack, path in zip(stacks, paths, strict=True):
        _require_pictures(stack, path)
    first = _comes_first(stacks[0])
    about = [(stack.dtype.str, _channels(stack, first), _comes_first(stack)) for stack in stacks]
    if differ := [i for i, kind in enumerate(about) if kind != about[0]]:
        raise DataError(
            f"'{paths[differ[0]]}' and '{paths[0]}' hold different kinds of images",
            why=f"{_shape(stacks[differ[0]])}, and {_shape(stacks[0])}",
            fix="name those of one type and number of channels",
        )
    notes = [note for stack in stacks for note in stack.notes]
    if first:
        notes.append(f"taken for [N, C, H, W]: {quoted(map(_shape, stacks))}")
    images = StackImages(
        root=root,
        stacks=tuple(stacks),
        ends=np.cumsum([stack.shape[0] for stack in stacks]),
        first=first,
        notes=tuple(notes),
    )
    if images.colour and _channels(stacks[0], first) == ALPHA:
        also = f"{COLOURS_OF_FOUR}, as transparency (data.channels=all reads all four)"
        images = replace(images, notes=(*images.notes, also))
    found = find_labels(paths, [stack.shape[0] for stack in stacks])
    if found is None:
        return images
    kept = {f.name: getattr(images, f.name) for f in fields(StackImages) if f.init}
    return LabelledStacks(**kept, labels=found[0], classes=found[1])


def hold_pictures(paths: Sequence[Path]) -> bool:
    """Whether several .npy files are a picture each, by the axes of the first. Raises DataError."""
    return len(paths) > 1 and len(open_npy(paths[0], paths[0].name).shape) < 4


def _open(root: Path, path: Path) -> Stack:
    name = path.relative_to(root).as_posix()
    return open_zarr(path, name) if form_of(path) == "zarr" else open_npy(path, name)


def _require_pictures(stack: Stack, path: Path) -> None:
    """Raise DataError for an array that is no stack of pictures."""
    shape, kind = stack.shape, stack.dtype
    if kind.hasobject or kind.names or kind.kind not in "buif":
        raise DataError(
            f"'{path}' holds values of type {kind}",
            why="as lists of arrays of different sizes do" if kind.hasobject else "",
            fix="store whole numbers, floats or bool; pictures of different sizes as files",
        )
    if kind.kind in "ui" and kind.itemsize > LARGEST_WHOLE:
        raise DataError(
            f"'{path}' holds values of type {kind}",
            why="nobody scales by the range of these",
            fix="store them in the type that they were measured in, as uint8 or uint16",
        )
    one = len(shape) == 3 and shape[2] <= _FEW
    if len(shape) not in (3, 4) or one:
        raise DataError(
            f"'{path}' is no stack of pictures",
            why=f"it is {sides(shape)}" + (", as one picture [H, W, C]" if one else ""),
            fix="stack them as [N, H, W, C] or [N, H, W]; files of one picture each are read from "
            "a folder by data.channels=all",
        )
    if min(shape) < 1:
        raise DataError(f"'{path}' holds no pictures", why=f"it is {sides(shape)}", fix="check it")


def _comes_first(stack: Stack) -> bool:
    shape = stack.shape
    return len(shape) == 4 and shape[1] <= _FEW and min(shape[2:]) >= _SIDE


def _channels(stack: Stack, first: bool) -> int:
    return 1 if len(stack.shape) == 3 else stack.shape[1 if first else 3]


def _shape(stack: Stack) -> str:
    return f"{stack.name} {stack.dtype} {sides(stack.shape)}"
