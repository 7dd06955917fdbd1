"""Images inside of tar archives; classes are folders, or side entries as in WebDataset."""

from __future__ import annotations

import json
import os
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from ibot.data.decode import file_holds_more
from ibot.data.formats import PAGED, extension, extensions, is_image, is_litter
from ibot.data.sets.archives import Archives
from ibot.data.sets.classes import number_classes, twins_note
from ibot.data.sets.files import FileImages, LabelledFiles, file_images, with_labels
from ibot.data.sets.listings import find_listing, keep_listing, states_of
from ibot.data.sets.parts import quoted
from ibot.data.sets.passed_over import kind_of, passed_over_note
from ibot.data.sets.scan import pages_note
from ibot.errors import DataError
from ibot.words import counted

_LARGEST_SIDE = 1 << 20
"""Bytes of a file beside an image that may name its class."""

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
    or of `cls` or `label` in `KEY.json`, else the name of the folder in the archive that holds
    the image; where every image has one, what comes back are `LabelledFiles`. Links and other
    files are passed over; notes count them. Of an archive that is cut short the whole images
    are read, and a note names it.

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
            labels, classes = number_classes(found.classes, folders=found.in_folders)
            images = replace(images, notes=(*images.notes, *twins_note(classes)))
            images = with_labels(images, labels, classes)
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
    cut: dict[str, int] = field(default_factory=dict)
    """Whole images in archives whose end is missing, by their names."""

    @property
    def in_folders(self) -> bool:
        """Whether each class is the name of a folder above its image."""
        return all(
            f"/{text}/" in f"/{name}" for name, text in zip(self.names, self.classes, strict=True)
        )

    def images(self) -> FileImages:
        archives = Archives(self.archives, np.array(self.places, np.int64))
        images = file_images(self.root, self.names, "tar", archives)
        paged = [i for i, name in enumerate(self.names) if extension(name) in PAGED]
        more = pages_note(paged, lambda i: file_holds_more(archives.open(self.root, i)))
        return replace(images, notes=(*passed_over_note(self.other), *self.cut_note(), *more))

    def cut_note(self) -> list[str]:
        """A sentence on the archives whose end is missing."""
        if not self.cut:
            return []
        which = quoted(f"{name} ({counted(whole, 'image')})" for name, whole in self.cut.items())
        return [
            f"{counted(len(self.cut), 'archive')} of {len(self.archives)} cut short, only whole "
            f"images are read: {which}"
        ]


def _relative(archives: Sequence[str | Path]) -> tuple[Path, tuple[str, ...]]:
    """The folder above archives, and their names relative to it."""
    paths = [Path(archive) for archive in archives]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, tuple(path.relative_to(root).as_posix() for path in paths)


def _read(archives: Sequence[str | Path]) -> _Found:
    """The headers of archives. Raises DataError for damaged ones, and where they hold no images."""
    root, paths = _relative(archives)
    found = _Found(root, paths)
    read = [_members(root / path, found.other) for path in paths]
    named = any(text is not None for members, _ in read for _, text, _, _ in members)
    for number, (members, cut) in enumerate(read):
        if cut:
            # Of the last sample the class may be what is missing.
            if named and members and members[-1][1] is None:
                members.pop()
            found.cut[paths[number]] = len(members)
        for name, text, start, size in members:
            found.names.append(f"{paths[number]}/{name}")
            found.classes.append(PurePosixPath(name).parent.name if text is None else text)
            found.places.append((number, start, size))
    if not found.names:
        others = f" and {len(archives) - 1} others" if len(archives) > 1 else ""
        raise DataError(
            f"no images in '{archives[0]}'{others}",
            why="; ".join(found.cut_note()),
            fix=f"the extensions read are {' '.join(sorted(extensions()))}",
        )
    return found


def _members(
    path: Path, other: Counter[str]
) -> tuple[list[tuple[str, str | None, int, int]], bool]:
    """Of each image in an archive name, class (None where no file beside it names one), first byte
    and bytes; and whether the end of the archive is missing.

    Counts what else it holds in `other`, by its kind. Raises DataError.
    """
    # A name that comes twice was replaced by its later content.
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, str] = {}
    known = extensions()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            size = os.fstat(file.fileno()).st_size
            while (member := _next(archive, file, size)) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - else it keeps 1 KB per file
                name = member.name.removeprefix("./")
                *folders, base = name.split("/")
                if member.isdir():
                    continue
                if (
                    not member.isreg()
                    or member.issparse()  # its holes are not stored
                    or is_litter(base, False)
                    or any(is_litter(part, True) for part in folders)
                ):
                    other[_passed_over(member)] += 1
                    continue
                kind, stem = extension(name), os.path.splitext(name)[0]  # noqa: PTH122
                if kind in known or (not kind and is_image(_head(file, member))):
                    images[name] = member.offset_data, member.size
                elif (text := _class_text(archive, member, kind)) is not None:
                    if kind == ".cls" or stem not in texts:
                        texts[stem] = text
                else:
                    other[kind_of(base)] += 1
            cut = _is_cut(archive, file, size)
    except (OSError, ValueError, tarfile.TarError) as error:
        fix = "copy it again; a compressed archive must be unpacked to a .tar first"
        raise DataError(
            f"'{path}' cannot be read as a tar archive", why=str(error), fix=fix
        ) from None
    stems = ((name, os.path.splitext(name)[0], place) for name, place in images.items())  # noqa: PTH122
    return [(name, texts.get(stem), *place) for name, stem, place in stems], cut


def _next(archive: tarfile.TarFile, file: BinaryIO, size: int) -> tarfile.TarInfo | None:
    """The next file of an archive of `size` bytes; None after the last that is whole.

    Raises TarError for what is no archive, or damaged before its end.
    """
    try:
        member = archive.next()
    except (tarfile.TarError, ValueError):
        # A long name, or what it belongs to, may be cut through.
        if archive.offset == 0 or file.read(1):
            raise
        return None
    if member is None or member.issparse():  # of those less is stored than their size
        return member if archive.offset <= size else None
    return member if member.offset_data + member.size <= size else None


def _passed_over(member: tarfile.TarInfo) -> str:
    """What a file counts as that is not looked at."""
    if member.issparse():
        return "with holes"
    return "hidden or of the system" if member.isreg() else "link"


def _is_cut(archive: tarfile.TarFile, file: BinaryIO, size: int) -> bool:
    """Whether an archive ends before its end mark. Raises TarError for a damaged one.

    tarfile takes a damaged header for the end, which is a block of zeros.
    """
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) == tarfile.BLOCKSIZE and block.strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    return len(block) < tarfile.BLOCKSIZE


def _class_text(archive: tarfile.TarFile, member: tarfile.TarInfo, kind: str) -> str | None:
    """The class that a file beside an image names; None where it is another kind of file."""
    if kind not in (".cls", ".json") or member.size > _LARGEST_SIDE:
        return None
    content = archive.extractfile(member)
    text = content.read().decode("utf-8", "replace").strip() if content is not None else ""
    if kind == ".cls":
        return text
    with suppress(ValueError, RecursionError):
        fields = json.loads(text)
        label = fields.get("cls", fields.get("label")) if isinstance(fields, dict) else None
        return str(label) if isinstance(label, int | str) and label != "" else None
    return None


def _head(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The first bytes of a file in an archive; tarfile finds its own place again."""
    file.seek(member.offset_data)
    return file.read(min(32, member.size))
