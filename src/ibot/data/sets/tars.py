"""Images inside of tar archives; classes are folders, or side entries as in WebDataset."""

from __future__ import annotations

import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from ibot.data.decode import file_holds_more
from ibot.data.formats import PAGED, extension, extensions, is_image, is_litter
from ibot.data.sets.archives import Archives
from ibot.data.sets.classes import number_classes
from ibot.data.sets.files import FileImages, LabelledFiles, file_images, with_labels
from ibot.data.sets.listings import find_listing, keep_listing, states_of
from ibot.data.sets.scan import kind_of, pages_note, passed_over_note
from ibot.errors import DataError

INDEX = "index.csv"
"""Beside shards that `ibot data pack` wrote: what lies where."""


def open_tars(archives: Sequence[str | Path]) -> LabelledFiles:
    """As `scan_tars`, with a class each. Raises DataError for images without."""
    images = scan_tars(archives)
    if isinstance(images, LabelledFiles):
        return images
    found = _read(archives)
    texts = found.classes
    raise DataError(
        f"'{found.names[texts.index('')]}' has no class",
        why=f"{texts.count('')} of {len(texts)} images lie in no folder and have no .cls file "
        "beside them",
        fix="pack the images in class folders, or with one KEY.cls for each KEY.jpg",
    )


def scan_tars(archives: Sequence[str | Path]) -> FileImages:
    """Images inside of uncompressed tar archives. All headers are read once, the images when they
    are asked for.

    The class is the content of `KEY.cls` where that lies beside `KEY.jpg` (a name or a number),
    else the name of the folder in the archive that holds the image; where every image has one, what
    comes back are `LabelledFiles`. Links and other files are passed over; notes count them.

    Raises:
        DataError: a damaged or compressed archive, no images.
    """
    root, names = _relative(archives)
    images = find_listing(root, names)
    if images is None:
        began, before = time.time(), states_of(root, names)
        found = _read(archives)
        images = found.images()
        if "" not in found.classes:
            images = with_labels(images, *number_classes(found.classes))
        keep_listing(images, before, began)
    return images


@dataclass
class _Found:
    """What archives hold."""

    root: Path
    archives: tuple[str, ...]
    """Relative to the root."""
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """Of each image; empty where it has none."""
    places: list[tuple[int, int, int]] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    """Files that are not read, by their kind."""

    def images(self) -> FileImages:
        archives = Archives(self.archives, np.array(self.places, np.int64))
        images = file_images(self.root, self.names, "tar", archives)
        paged = [i for i, name in enumerate(self.names) if extension(name) in PAGED]
        more = pages_note(paged, lambda i: file_holds_more(archives.open(self.root, i)))
        return replace(images, notes=(*passed_over_note(self.other), *more))


def _relative(archives: Sequence[str | Path]) -> tuple[Path, tuple[str, ...]]:
    """The folder above archives, and their names relative to it."""
    paths = [Path(archive) for archive in archives]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, tuple(path.relative_to(root).as_posix() for path in paths)


def _read(archives: Sequence[str | Path]) -> _Found:
    """The headers of archives. Raises DataError for damaged ones, and where they hold no images."""
    root, paths = _relative(archives)
    found = _Found(root, paths)
    for number, path in enumerate(paths):
        for name, text, start, size in _members(root / path, found.other):
            found.names.append(f"{found.archives[number]}/{name}")
            found.classes.append(text)
            found.places.append((number, start, size))
    if not found.names:
        others = f" and {len(paths) - 1} others" if len(paths) > 1 else ""
        raise DataError(
            f"no images in '{archives[0]}'{others}",
            fix=f"the extensions read are {' '.join(sorted(extensions()))}",
        )
    return found


def _members(path: Path, other: Counter[str]) -> Iterator[tuple[str, str, int, int]]:
    """Name, class ("" if there is none), first byte and bytes of each image in an archive.

    Counts what else it holds in `other`, by its kind. Raises DataError.
    """
    # A name that comes twice was replaced by its later content.
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, str] = {}
    known = extensions()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - else it keeps 1 KB per file
                name = member.name.removeprefix("./")
                *folders, base = name.split("/")
                if member.isdir():
                    continue
                if (
                    not member.isreg()
                    or is_litter(base, False)
                    or any(is_litter(part, True) for part in folders)
                ):
                    other["hidden or of the system" if member.isreg() else "link"] += 1
                    continue
                kind = extension(name)
                if kind in known or (not kind and is_image(_head(file, member))):
                    images[name] = member.offset_data, member.size
                elif kind == ".cls" and (content := archive.extractfile(member)) is not None:
                    text = content.read().decode("utf-8", "replace").strip()
                    texts[os.path.splitext(name)[0]] = text  # noqa: PTH122
                else:
                    other[kind_of(base)] += 1
            # tarfile takes a damaged header for the end, which is a block of zeros.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except (OSError, ValueError, tarfile.TarError) as error:
        fix = "copy it again; a compressed archive must be unpacked to a .tar first"
        raise DataError(
            f"'{path}' cannot be read as a tar archive", why=str(error), fix=fix
        ) from None
    for name, (start, size) in images.items():
        stem = os.path.splitext(name)[0]  # noqa: PTH122
        yield name, texts.get(stem, PurePosixPath(name).parent.name), start, size


def _head(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The first bytes of a file in an archive; tarfile finds its own place again."""
    file.seek(member.offset_data)
    return file.read(min(32, member.size))
