"""Index files: what folders and archives hold, kept in the cache, so that opening them again is
instant.

A listing is one file: a header in JSON, and arrays that are mapped when it is opened, so that
loader processes share their pages. It serves only where all that it was made from is as it was:
each folder that was looked into (or each archive) by its size, times and inode, and the kinds of
files that are read here. That costs one stat for each folder.

It cannot notice what leaves a folder as it is: an image whose content is changed in place, a file
without extension that becomes an image, a link whose target appears or goes. What is in the images
is for `Images.fingerprint`, which evaluations ask and which looks at every file; pre-training asks
for names alone.

A listing that is damaged, of another form, or that others than its user may have written counts as
none, and is replaced. Where the cache cannot be written, or others may write there, there is none.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ibot.data.formats import extensions
from ibot.data.sets.archives import Archives
from ibot.data.sets.files import FileImages, LabelledFiles, packed_names, with_labels
from ibot.data.sets.fingerprints import State, is_settled, state_of
from ibot.system.files import replacing
from ibot.system.places import expanded
from ibot.system.portable import is_own, lock

FOLDER = "~/.cache/ibot/listings"
"""Where listings are kept, beside the features."""
WORTH = 5000
"""Images from which on a listing is kept: to look through folders of fewer takes hundredths of a
second."""
MARK = b"ibot listing 4\n"
"""First bytes; another number when the form changes, or what `scan` and `scan_tars` take."""
BODY = len(MARK) + 4
"""Bytes of the mark and of the CRC-32 of all that follows: length of the header, header, arrays."""
ALIGNED = 64
FORMS = {
    "names": ("|u1", ()),
    "ends": ("<i8", ()),
    "labels": ("<i4", ()),
    "places": ("<i8", (3,)),
    "watched": ("|u1", ()),
    "watched_ends": ("<i8", ()),
    "states": ("<i8", (4,)),
}
"""Type and further sides of each array, in their order."""


def states_of(root: Path, archives: Sequence[str]) -> dict[str, State]:
    """How archives are, relative to the root; nothing where one of them cannot be looked at."""
    with suppress(OSError):
        return {name: state_of((root / name).stat()) for name in archives}
    return {}


def find_listing(root: Path, archives: Sequence[str] = ()) -> FileImages | None:
    """What was kept of a folder or of archives; None where nothing was, or anything has changed.

    Args:
        root: folder that was looked through, or that holds the archives.
        archives: relative to the root.
    """
    file = _place(root, archives)
    if file is None:
        return None
    # Whatever a file may hold that another program, or a failing disk, has left there.
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        header, arrays = _read(file)
        if header["about"] == _about(root, archives) and _unchanged(root, arrays):
            return _images(root, header, arrays)
    return None


def keep_listing(images: FileImages, watched: Mapping[str, State], began: float) -> None:
    """Keep what was found for the next time; in silence not, where that is no use or cannot be.

    Args:
        images: of a folder or of archives.
        watched: folders that were looked into, or the archives, relative to the root; how each was
            before it was.
        began: `time.time()` before the first of them was looked at.
    """
    archives = images.archives.names if images.archives is not None else ()
    file = _place(images.root, archives)
    if file is None or len(images) < WORTH or not watched:
        return
    if not is_settled(watched.values(), began):
        return
    states = np.array(list(watched.values()), np.int64)
    names, ends = packed_names(watched)
    arrays: dict[str, NDArray[Any]] = {"names": images.names, "ends": images.ends}
    if isinstance(images, LabelledFiles):
        arrays["labels"] = images.labels
    if isinstance(images.archives, Archives):
        arrays["places"] = images.archives.places
    arrays |= {"watched": names, "watched_ends": ends, "states": states}
    header = {
        "about": _about(images.root, archives),
        "kind": images.kind,
        "notes": [_text(note) for note in images.notes],
        "classes": [_text(name) for name in getattr(images, "classes", ())],
    }
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(file.parent.stat()):
            return  # a link in the place of the new file would lead the writing elsewhere
        with _alone(file.parent) as alone:
            if alone:
                with replacing(file) as temporary:
                    temporary.touch(mode=0o600)
                    with temporary.open("wb") as out:
                        _write(out, header, arrays)


def _place(root: Path, archives: Sequence[str]) -> Path | None:
    """The file of a listing; None of nobody, who has no home."""
    key = "\0".join([os.path.abspath(root), *archives])  # noqa: PTH100 - links are watched, not resolved
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    try:
        return expanded(FOLDER) / f"{name}.listing"
    except RuntimeError:
        return None


def _about(root: Path, archives: Sequence[str]) -> list[str]:
    """What a listing is of: the place, and the kinds of files that were looked for there."""
    place = os.path.abspath(root)  # noqa: PTH100
    return [_text(part) for part in (place, " ".join(sorted(extensions())), *archives)]


def _text(name: str) -> str:
    """Names of any bytes, for JSON in UTF-8."""
    return os.fsencode(name).decode("latin-1")


def _name(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process writes a listing now: one of two that found the same is enough."""
    with (folder / "lock").open("a") as file:
        try:
            lock(file)
        except OSError:
            yield False
        else:
            yield True


def _write(out: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    whole = {name: np.ascontiguousarray(a, FORMS[name][0]) for name, a in arrays.items()}
    lengths = {name: len(array) for name, array in whole.items()}
    text = json.dumps({**header, "lengths": lengths}).encode()
    parts, place = [len(text).to_bytes(8, "little"), text], BODY + 8 + len(text)
    for array in whole.values():
        parts += [bytes(-place % ALIGNED), array.reshape(-1).view(np.uint8).data]
        place += -place % ALIGNED + array.nbytes
    check = 0
    for part in parts:
        check = zlib.crc32(part, check)
    out.write(MARK + check.to_bytes(4, "little"))
    for part in parts:
        out.write(part)
    out.flush()


def _read(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and mapped arrays. Raises ValueError and its like for what is no whole listing."""
    with file.open("rb") as content:
        if not is_own(os.fstat(content.fileno())):
            raise ValueError("of somebody else")
        # Nobody writes into the arrays; as a private copy they need no care with what warns of
        # arrays that cannot be written.
        mapped = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_COPY)
    body = memoryview(mapped)[BODY:]
    if mapped[: len(MARK)] != MARK or len(body) < 8:
        raise ValueError("no listing, or one of another form")
    if zlib.crc32(body) != int.from_bytes(mapped[len(MARK) : BODY], "little"):
        raise ValueError("damaged")
    start = BODY + 8 + int.from_bytes(body[:8], "little")
    header = json.loads(mapped[BODY + 8 : start])
    arrays = {}
    for name, (kind, sides) in FORMS.items():
        if name not in header["lengths"]:
            continue
        shape = (int(header["lengths"][name]), *sides)
        start += -start % ALIGNED
        arrays[name] = np.frombuffer(mapped, kind, math.prod(shape), start).reshape(shape)
        start += arrays[name].nbytes
    return header, arrays


def _unchanged(root: Path, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether every folder or archive is as it was. Raises OSError for one that is gone."""
    names, ends = arrays["watched"].tobytes(), arrays["watched_ends"].tolist()
    base = os.path.join(root, "")  # noqa: PTH118 - of many folders
    starts = [0, *ends[:-1]]
    for start, end, state in zip(starts, ends, arrays["states"].tolist(), strict=True):
        status = os.stat(base + os.fsdecode(names[start:end]))  # noqa: PTH116
        if state_of(status) != tuple(state):
            return False
    return bool(ends)


def _images(
    root: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> FileImages:
    """The images of a listing. Raises ValueError where its parts do not fit each other."""
    names, ends = arrays["names"], arrays["ends"]
    classes = tuple(map(_name, header["classes"]))
    if np.diff(ends, prepend=0).min() < 0 or ends[-1] != len(names):
        raise ValueError("names that do not fit")
    archives = None
    if "places" in arrays:
        archives = Archives(tuple(map(_name, header["about"][2:])), arrays["places"])
    images = FileImages(
        root=root,
        names=names,
        ends=ends,
        kind=header["kind"],
        archives=archives,
        notes=tuple(map(_name, header["notes"])),
    )
    if "labels" not in arrays:
        return images
    labels = arrays["labels"]
    if len(labels) != len(ends) or not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError("labels that do not fit")
    return with_labels(images, labels, classes)
