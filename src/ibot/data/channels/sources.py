"""Sets that give all channels of their images as levels, whatever the images lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ibot.data.channels.groups import Groups
from ibot.data.channels.levels import Levels, to_levels
from ibot.data.channels.read import read_header, read_levels
from ibot.data.channels.stored import Header, How
from ibot.data.decode import UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.channel_names import CHANNEL_FILES
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images
from ibot.words import counted

B = TypeVar("B", bound=Images)


@runtime_checkable
class LevelImages(Protocol):
    """Images of which every channel can be had as its file has it; the rest as in `Images`."""

    @property
    def root(self) -> Path:
        """Folder or file."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know, a sentence each."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex."""
        ...

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data."""
        ...

    def header(self, index: int) -> Header:
        """Size and channels of an image, from its header. Raises UnreadableImage."""
        ...

    def levels(self, index: int, only: Sequence[str] = ()) -> Levels:
        """Channels of an image; NaN where nothing was measured. Raises UnreadableImage.

        only: names of those that are wanted; others may come too.
        """
        ...


class _Wrapped(Generic[B]):
    """What is the same for images however they are read."""

    base: B

    @property
    def root(self) -> Path:
        """As of the base."""
        return self.base.root

    @property
    def notes(self) -> tuple[str, ...]:
        """As of the base."""
        return self.base.notes

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """As of the base."""
        return self.base.name(index)

    def fingerprint(self) -> str:
        """As of the base."""
        return self.base.fingerprint()

    def provenance(self) -> dict[str, object]:
        """As of the base."""
        return self.base.provenance()


class ReadLevels(_Wrapped[Images]):
    """What any set reads, colour pictures or stacks, as levels."""

    def __init__(self, base: Images) -> None:
        self.base = base

    def header(self, index: int) -> Header:
        """Size and channels. Raises UnreadableImage."""
        return Header(*self.base.size(index), self.base.channels)

    def levels(self, index: int, only: Sequence[str] = ()) -> Levels:
        """All channels. Raises UnreadableImage."""
        return Levels(to_levels(self.base.read(index)), self.base.channels)


class LevelFiles(_Wrapped[FileImages]):
    """Images in files, each with all of its channels."""

    def __init__(self, base: FileImages, no_data: tuple[float, ...] = ()) -> None:
        self.base = base
        self.how = How(
            exif_orientation=base.exif_orientation, max_pixels=base.max_pixels, no_data=no_data
        )

    def header(self, index: int) -> Header:
        """Size and channels. Raises UnreadableImage."""
        with opened(self.base, index) as file:
            return read_header(file, self.how)

    def levels(self, index: int, only: Sequence[str] = ()) -> Levels:
        """All channels. Raises UnreadableImage."""
        with opened(self.base, index) as file:
            return read_levels(file, self.how)


class GroupedFiles(_Wrapped[FileImages]):
    """Images of several files, one for each channel."""

    def __init__(self, base: FileImages, groups: Groups, no_data: tuple[float, ...] = ()) -> None:
        self.base, self.groups = base, groups
        self.files = LevelFiles(base, no_data)

    @property
    def notes(self) -> tuple[str, ...]:
        """As of the base, and what was joined."""
        groups = self.groups
        notes = tuple(note for note in self.base.notes if not note.startswith(CHANNEL_FILES))
        whole = int((groups.members >= 0).all(axis=1).sum())
        if whole < len(self):
            lacking = counted(len(self) - whole, "image")
            notes = (*notes, f"{lacking} of {len(self)} without a file for each channel")
        if groups.others:
            notes = (
                *notes,
                f"{counted(groups.others, 'file')} passed over: no channel of an image",
            )
        return notes

    def __len__(self) -> int:
        return len(self.groups.names)

    def name(self, index: int) -> str:
        """Folder and what the files have in common."""
        return self.groups.names[index]

    def first_files(self) -> NDArray[np.int64]:
        """int64 [n], a file of each image."""
        return self.groups.members.max(axis=1)

    def header(self, index: int) -> Header:
        """Size, of one of the files, and channels. Raises UnreadableImage."""
        one = self.files.header(int(self.groups.members[index].max()))
        return replace(one, names=self.groups.channels)

    def levels(self, index: int, only: Sequence[str] = ()) -> Levels:
        """The channels `only`, of one file each. Raises UnreadableImage.

        It is raised for a file that is missing, holds more than a channel, or is of another size.
        """
        wanted = [name for name in self.groups.channels if not only or name in only]
        planes: list[NDArray[np.float32]] = []
        for name in wanted:
            file = int(self.groups.members[index, self.groups.channels.index(name)])
            if file < 0:
                raise UnreadableImage(f"channel {name} is missing", "there is no file of it")
            plane = self._plane(file)
            if planes and plane.shape != planes[0].shape:
                sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (planes[0], plane))
                raise UnreadableImage(
                    "files of different sizes", f"{sizes} pixels: '{self.base.name(file)}'"
                )
            planes.append(plane)
        return Levels(np.stack(planes, axis=-1), tuple(wanted))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's, and which files are joined to what."""
        parts = *self.groups.names, *self.groups.channels, self.groups.members
        return fingerprints.digest("groups", self.base.fingerprint(), *parts)

    def provenance(self) -> dict[str, object]:
        """As of the base, by the number of images that its files make."""
        return {**self.base.provenance(), "images": len(self)}

    def _plane(self, file: int) -> NDArray[np.float32]:
        try:
            values = self.files.levels(file).values
        except UnreadableImage as error:
            raise UnreadableImage(f"'{self.base.name(file)}' is unreadable", str(error)) from None
        if values.shape[2] != 1:
            raise UnreadableImage(
                f"{values.shape[2]} channels in one file", f"'{self.base.name(file)}'"
            )
        return values[..., 0]


def opened(base: FileImages, index: int) -> BinaryIO:
    """The open file of an image, of a folder or an archive. Raises UnreadableImage."""
    if base.archives is not None:
        return base.archives.open(base.root, index)
    try:
        return base.path(index).open("rb")
    except FileNotFoundError:
        raise UnreadableImage("missing") from None
    except OSError as error:
        raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
