"""Tar shards of image files as WebDataset has them: what members are called, one shard written, one
shard checked.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ibot.data.decode import UnreadableImage
from ibot.data.formats import extensions, is_litter
from ibot.data.sets.files import FileImages, LabelledFiles
from ibot.system.files import replacing

GONE = b""
"""What is packed for a file that cannot be read, which keeps its place: a bad file there too."""


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a shard."""

    index: int
    """Its number in the set."""
    key: str
    """Path in the shard without extension; nothing else there is called so."""
    suffix: str
    """Extension, with its dot."""
    label: str | None
    """Content of KEY.cls, the name of the class; None: there is no such file."""

    @property
    def name(self) -> str:
        """Path in the shard."""
        return self.key + self.suffix


def members(images: FileImages) -> Iterator[Member]:
    """What the images of a set are called in shards, in their order.

    As in the set, but for what WebDataset takes for something else: a key ends at its first dot,
    and two images of one key would be one sample. Where a reader would take folders for classes
    that are none, an empty class says so.
    """
    labelled = isinstance(images, LabelledFiles)
    used: set[str] = set()
    in_folders = not labelled and all("/" in images.name(i) for i in range(len(images)))
    for index in range(len(images)):
        stem, suffix = os.path.splitext(images.name(index))  # noqa: PTH122
        if suffix.lower() not in extensions():
            stem, suffix = stem + suffix, _suffix(images, index)
        key = _key(stem)
        while key in used:
            key = f"{key}-{index}"
        used.add(key)
        label = images.classes[images.label(index)] if labelled else "" if in_folders else None
        yield Member(index, key, suffix, label)


def _key(stem: str) -> str:
    """The stem without dots in its last part, and without folders that are hidden or lead up."""
    *folders, base = (part for part in PurePosixPath(stem).parts if part not in ("/", ".", ".."))
    folders = [f"_{part}" if is_litter(part, True) else part for part in folders]
    base = base.replace(".", "_")
    return "/".join([*folders, f"_{base}" if is_litter(base, False) else base])


def _suffix(images: FileImages, index: int) -> str:
    """The extension of an image whose name has none that is known, by its first bytes."""
    head = read_bytes(images, index)[:12]
    if head.startswith(b"\x89PNG"):
        return ".png"
    if head.startswith((b"II*\0", b"MM\0*")):
        return ".tif"
    if head[8:12] == b"WEBP":
        return ".webp"
    return {b"GIF8": ".gif", b"BM": ".bmp"}.get(head[:4], ".jpg")


def read_bytes(images: FileImages, index: int) -> bytes:
    """The file of an image; nothing of one that cannot be read."""
    try:
        if images.archives is None:
            return images.path(index).read_bytes()
        return images.archives.open(images.root, index).read()
    except (OSError, UnreadableImage):
        return GONE


def write_shard(path: Path, images: FileImages, content: Sequence[Member]) -> None:
    """Write a shard, whole or not at all. Raises OSError."""
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in content:
            _add(archive, member.name, read_bytes(images, member.index))
            if member.label is not None:
                _add(archive, f"{member.key}.cls", member.label.encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # Without times and owners: the same images make the same bytes, whoever packs them.
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@dataclass(frozen=True, slots=True)
class Checked:
    """What a shard holds, compared with the files that it was made from."""

    wrong: str
    """The first member that differs; empty of a shard as it should be."""
    rows: tuple[tuple[str, int, str], ...] = ()
    """Name of each image in the shard, its bytes and their SHA-256 in hex."""


def check_shard(path: Path, images: FileImages, content: Sequence[Member]) -> Checked:
    """Read a shard again, and the files: names, order, classes and every byte, by SHA-256."""
    rows = []
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in content:
                found = _next(archive, member.name)
                if found is None or found != _digest(read_bytes(images, member.index)):
                    return Checked(member.name)
                if member.label is not None:
                    label = _next(archive, f"{member.key}.cls")
                    if label != _digest(member.label.encode()):
                        return Checked(f"{member.key}.cls")
                rows.append((member.name, *found))
            # The end is two empty blocks, filled up to a record.
            filled = -(-(archive.offset + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE)
            if archive.next() is not None or path.stat().st_size != filled * tarfile.RECORDSIZE:
                return Checked("more than was packed")
    except (OSError, tarfile.TarError) as error:
        return Checked(str(error))
    return Checked("", tuple(rows))


def _next(archive: tarfile.TarFile, name: str) -> tuple[int, str] | None:
    """Bytes and SHA-256 of the next member; None if it is not called `name`."""
    entry = archive.next()
    if entry is None or entry.name != name or (file := archive.extractfile(entry)) is None:
        return None
    return _digest(file.read())


def _digest(content: bytes) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()
