"""Images in files, one each or many in an archive, with labels or without."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import MAX_PIXELS, RGB
from ibot.data import decode as pillow
from ibot.data.decode import Orientation, file_size, image_size
from ibot.data.sets import fingerprints
from ibot.data.sets.archives import Container
from ibot.data.sets.images import Room

Decoder = Literal["pillow", "fast"]
"""Pillow, or where it can a quicker library: the same files are read, and what is known of them
(`fingerprint`) stays the same. Evaluations read with Pillow."""
Kind = Literal["files", "folder", "list", "tar", "parquet", "arrow"]
"""How a set was opened: by a scan, as class folders, from a list, from archives, from tables."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FileImages:
    """Images in files.

    Names are kept in one buffer: millions cost little memory and travel to workers in one piece.
    """

    root: Path
    """Folder that the names are relative to."""
    names: NDArray[np.uint8]
    """Relative paths, UTF-8 with surrogates, one after the other: in memory or in a mapped file."""
    ends: NDArray[np.int64]
    """int64 [n], where each name ends in `names`."""
    kind: Kind = "files"
    archives: Container | None = None
    """Where the files lie inside of archives or tables; None: below the root, by their names."""
    exif_orientation: Orientation = "apply"
    """Whether `read` turns pictures upright by their EXIF tag."""
    max_pixels: int = MAX_PIXELS
    """`read` refuses larger images."""
    decoder: Decoder = "pillow"
    """What `read` decodes with."""
    notes: tuple[str, ...] = ()
    """What a user should know of what was and was not taken, a sentence each."""
    _known: list[str] = field(default_factory=list, init=False, repr=False)
    """The fingerprint, once it is computed."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Red, green, blue."""
        return RGB

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> str:
        """Path of an image relative to the root; inside of archives `ARCHIVE.tar/path/in/it`."""
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.names[start : self.ends[index]].tobytes())

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / self.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives. Raises UnreadableImage."""
        how = self.exif_orientation, self.max_pixels
        if self.archives is None:
            return image_size(self.path(index), *how)
        return file_size(self.archives.open(self.root, index), *how)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.read_into(index, None)

    def read_into(self, index: int, room: Room | None) -> NDArray[np.uint8]:
        """As `read`; the pixels lie in `room` where the quicker decoder has read them."""
        how = self.exif_orientation, self.max_pixels
        if self.decoder == "fast":
            from ibot.data import decode_fast

            if self.archives is None:
                return decode_fast.decode(self._place(index), *how, room)
            return decode_fast.decode_file(self.archives.open(self.root, index), *how, room)
        if self.archives is None:
            return pillow.decode(self._place(index), *how)
        return pillow.decode_file(self.archives.open(self.root, index), *how)

    def _place(self, index: int) -> str:
        """As `path`, of which an object takes as long to make as a small file to read."""
        return os.path.join(self.root, self.name(index))  # noqa: PTH118

    def fingerprint(self) -> str:
        """SHA-256 in hex of kind, classes, names, labels, and sizes and times of the files: one
        stat for each.

        Images that are not turned upright, or are refused from another size on, are others, and so
        is a set whose levels an earlier version read otherwise.
        """
        if not self._known:
            other = self._how()
            if b".tif" in self.names.tobytes().lower():
                other = (*other, fingerprints.TIFF_LEVELS)
            classes, labels = self._labelling()
            parts = self.kind, *classes, self.names, self.ends, labels, self._state(), *other
            self._known.append(fingerprints.digest(*parts))
        return self._known[0]

    def keys(self) -> NDArray[np.uint64] | None:
        """uint64 [n, 2], of each file's whole path and state and of how it is read; None inside of
        archives.

        Another file of the same size and time of change, as archives unpack them, is another one.
        """
        if self.archives is not None:
            return None
        root = os.path.realpath(self.root)
        how = " ".join((*self._how(), fingerprints.TIFF_LEVELS))
        paths = [os.path.join(root, self.name(i)) for i in range(len(self))]  # noqa: PTH118 - speed
        return fingerprints.file_keys(paths, how)

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data: folder, images, classes, and a hash of the names."""
        return {
            "root": str(self.root),
            "images": len(self),
            "classes": 0,
            "names_sha256": hashlib.sha256(self.names.data).hexdigest()[:16],
        }

    def _how(self) -> tuple[str, ...]:
        """How pictures are read, where that is not the usual way."""
        other = () if self.exif_orientation == "apply" else (self.exif_orientation,)
        return other if self.max_pixels == MAX_PIXELS else (*other, str(self.max_pixels))

    def _labelling(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Classes and labels for the fingerprint.

        Images without have one class without a name, as in caches of features of before.
        """
        return ("",), np.zeros(len(self), np.int32)

    def _state(self) -> NDArray[np.int64]:
        if self.archives is not None:
            return self.archives.state(self.root)
        root = str(self.root)
        paths = (os.path.join(root, self.name(i)) for i in range(len(self)))  # noqa: PTH118 - speed
        return fingerprints.file_state(paths)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelledFiles(FileImages):
    """Images in files, with a class each."""

    labels: NDArray[np.int32]
    """int32 [n], index into `classes`."""
    classes: tuple[str, ...]

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data: folder, images, classes, and a hash of the names."""
        return {**FileImages.provenance(self), "classes": len(self.classes)}

    def _labelling(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return self.classes, self.labels


def file_images(
    root: Path, names: Sequence[str], kind: Kind = "files", archives: Container | None = None
) -> FileImages:
    """The images `names` (relative to `root`) in their order."""
    packed, ends = packed_names(names)
    return FileImages(root=root, names=packed, ends=ends, kind=kind, archives=archives)


def packed_names(names: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Names in one buffer, uint8, and where each ends, int64 [n]."""
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def with_labels(
    images: FileImages, labels: NDArray[np.int32], classes: tuple[str, ...]
) -> LabelledFiles:
    """The same images with labels int32 [n] into `classes`."""
    kept = {f.name: getattr(images, f.name) for f in fields(FileImages) if f.init}
    return LabelledFiles(**kept, labels=labels, classes=classes)
