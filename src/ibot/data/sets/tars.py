"""Images inside of tar archives, with classes from their folders or from side entries as in
WebDataset.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from ibot.data.decode import file_holds_more
from ibot.data.formats import PAGED, extension, extensions, is_image, is_litter
from ibot.data.sets.labelled import TarImages, number_classes
from ibot.data.sets.scan import kind_of, pack_names, pages_note, passed_over_note
from ibot.errors import DataError


def open_tars(archives: Sequence[str | Path]) -> TarImages:
    """Images inside of uncompressed tar archives. All headers are read once, the images when they
    are asked for.

    The class is the content of `KEY.cls` where that lies beside `KEY.jpg` (a name or a number),
    else the name of the folder in the archive that holds the image. Links and other files are
    passed over; notes count them.

    Raises:
        DataError: a damaged or compressed archive, images without a class, no images.
    """
    paths = [Path(archive) for archive in archives]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    inner = tuple(path.relative_to(root).as_posix() for path in paths)
    names, texts, places = [], [], []
    other: Counter[str] = Counter()
    for number, path in enumerate(paths):
        for name, text, start, size in _members(path, other):
            names.append(f"{inner[number]}/{name}")
            texts.append(text)
            places.append((number, start, size))
    if not names:
        raise DataError(
            f"no images in '{paths[0]}'"
            + (f" and {len(paths) - 1} others" if len(paths) > 1 else ""),
            fix=f"the extensions read are {' '.join(sorted(extensions()))}",
        )
    if "" in texts:
        raise DataError(
            f"'{names[texts.index('')]}' has no class",
            why=f"{texts.count('')} of {len(texts)} images lie in no folder and have no .cls file "
            "beside them",
            fix="pack the images in class folders, or with one KEY.cls for each KEY.jpg",
        )
    labels, classes = number_classes(texts)
    images = TarImages(pack_names(root, names, labels, classes), inner, np.array(places, np.int64))
    paged = [i for i, name in enumerate(names) if extension(name) in PAGED]
    more = pages_note(paged, lambda i: file_holds_more(io.BytesIO(images.content(i))))
    return replace(images, source=replace(images.source, notes=(*passed_over_note(other), *more)))


def _members(path: Path, other: Counter[str]) -> Iterator[tuple[str, str, int, int]]:
    """Name, class ("" if there is none), first byte and bytes of each image in an archive.

    Counts what else it holds in `other`, by its kind. Raises DataError.
    """
    images: dict[
        str, tuple[int, int]
    ] = {}  # a name that comes twice was replaced by its later content
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
