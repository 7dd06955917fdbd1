"""A folder or a list of image files into tar shards, which give the same batches.

Order and classes are those of the set, and are kept when the shards are opened: so the same images
have the same numbers. All is written into `SHARDS.partial`, shard by shard, and gets its name when
everything is there and checked; a packing that was killed goes on where it stopped.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ibot.data.sets.files import FileImages, LabelledFiles
from ibot.data.sets.fingerprints import file_state
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_parts
from ibot.data.sets.parts import quoted
from ibot.data.sets.tars import INDEX, scan_tars
from ibot.data.shards import Member, check_shard, members, write_shard
from ibot.errors import DataError, UserError
from ibot.system.files import disk_full, is_disk_full, replacing, sync
from ibot.system.portable import locked_folder
from ibot.system.progress import Counter
from ibot.words import counted

PLAN = ".plan.json"
"""In the unfinished folder: of which images it is, so that the same command goes on."""
HEADERS = 1536
"""Bytes that a tar adds to an image with its class, at most usually."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed."""

    folder: Path
    parts: Mapping[str, int]
    """Images of each part; of a set without parts, its name is empty."""
    shards: int
    kept: int
    """Shards that were there already, whole."""
    num_bytes: int
    """Of the images."""
    empty: tuple[str, ...]
    """Images that could not be read, which are empty files in the shards."""


def parts_to_pack(data: str) -> dict[str, FileImages]:
    """Images of `data` by the name of their part: `train` and `val`, or "" without parts.

    Raises DataError as `open_parts`, and for images that are no files of their own.
    """
    parts = open_parts(data)
    files = {name: images for name, images in parts.items() if isinstance(images, FileImages)}
    if len(files) < len(parts):
        raise DataError(
            f"the images of '{data}' are no files",
            why="shards hold files as they are, and these lie in one piece",
            fix="train on them as they are",
        )
    return files


def pack(
    parts: Mapping[str, FileImages], shards: Path, *, size: int = 500, progress: Counter = None
) -> Packed:
    """Write the shards of all parts, check every byte of them, and give them their name.

    Args:
        parts: images by part; each part becomes a folder of `shards`, one without a name is
            `shards` itself.
        shards: a new folder.
        size: images in a shard.
        progress: called with the shards done and in all.

    Raises:
        UserError: there is something in the place, or another packing; classes whose names cannot
            be kept. ResourceError: the disk is full. DataError: what was read back is not what was
            written, or the images changed meanwhile.
    """
    _require_free(shards)
    for images in parts.values():
        _require_plain_classes(images)
    partial, plan = shards.with_name(f"{shards.name}.partial"), _plan(parts, size)
    with _own(partial, plan, shards):
        _require_room(parts, partial)
        try:
            packed = _write_all(parts, partial, size, progress)
        except OSError as error:
            if is_disk_full(error):
                again = "it goes on from the shards that are there"
                raise disk_full(partial, resumes=again) from None
            raise
        _require_same(parts, partial)
        if _plan({name: replace(images) for name, images in parts.items()}, size) != plan:
            raise _changed(parts, partial)
        partial.rename(shards)
        (shards / PLAN).unlink()
        sync(shards.absolute().parent)
    return replace(packed, folder=shards)


def _write_all(
    parts: Mapping[str, FileImages], partial: Path, size: int, progress: Counter
) -> Packed:
    """Write all shards but those that are there, and the index: a line for each image, in order."""
    total = sum(-(-len(images) // size) for images in parts.values())
    done = kept = num_bytes = 0
    empty = []
    with (
        replacing(partial / INDEX) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file)
        table.writerow(("shard", "member", "from", "bytes", "sha256"))
        for part, images in parts.items():
            every = members(images)
            for number in range(-(-len(images) // size)):
                few = list(islice(every, size))
                place = partial / part / f"{number:06d}.tar"
                rows, was_there = _one(place, images, few)
                for member, (name, length, digest) in zip(few, rows, strict=True):
                    origin = images.name(member.index)
                    shard = place.relative_to(partial).as_posix()
                    table.writerow((shard, name, origin, length, digest))
                    num_bytes += length
                    empty += [] if length else [origin]
                done, kept = done + 1, kept + was_there
                if progress is not None:
                    progress(done, total)
    numbers = {name: len(images) for name, images in parts.items()}
    return Packed(partial, numbers, done, kept, num_bytes, tuple(empty))


def _one(
    place: Path, images: FileImages, few: Sequence[Member]
) -> tuple[Sequence[tuple[str, int, str]], bool]:
    """Write a shard, or keep the one that is there; what it holds, and whether it was there."""
    if place.exists():
        checked = check_shard(place, images, few)
        if not checked.wrong:
            return checked.rows, True
    place.parent.mkdir(exist_ok=True)
    write_shard(place, images, few)
    checked = check_shard(place, images, few)
    if checked.wrong:
        raise DataError(
            f"'{place}' is not what was written: {checked.wrong}",
            why="the disk gave back other bytes, or an image changed meanwhile",
            fix="run the same command again; it goes on from the shards that are whole",
        )
    return checked.rows, False


def _plan(parts: Mapping[str, Images], size: int) -> dict[str, object]:
    """By what a packing knows its own again."""
    return {"size": size, "parts": {name: one.fingerprint() for name, one in parts.items()}}


def _require_free(shards: Path) -> None:
    """Raise UserError where there is anything but an empty folder."""
    if not shards.name:
        raise UserError(
            f"'{shards}' is no new folder", why="it is open", fix="name a new folder with --to"
        )
    if os.path.lexists(shards) and not (shards.is_dir() and not any(shards.iterdir())):
        raise UserError(
            f"'{shards}' is there already",
            why="nothing is overwritten",
            fix="name a new folder with --to; one that is packed already goes into --data",
        )


def _require_plain_classes(images: FileImages) -> None:
    """Raise UserError for names of classes that a shard cannot keep."""
    classes = images.classes if isinstance(images, LabelledFiles) else ()
    for name in classes:
        kept = name.encode("utf-8", "replace").decode()
        if kept.strip() != name:
            raise UserError(
                f"the class {name!a} cannot be packed",
                why="shards hold names of classes as text, without spaces at their ends",
                fix=f"rename its folder in '{images.root}'",
            )


@contextmanager
def _own(partial: Path, plan: Mapping[str, object], shards: Path) -> Iterator[None]:
    """The unfinished folder for this process alone. Raises UserError where it is another's."""
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        there = _read_plan(partial / PLAN)
        if there is None and any(partial.iterdir()):
            raise UserError(
                f"'{partial}' is in the way",
                why="shards are written there until all are whole, and it was not made for that",
                fix="name another folder with --to, or remove it",
            )
        if there is not None and there != plan:
            raise UserError(
                f"'{partial}' holds an unfinished packing of other images, or of another --size",
                fix=f"name another folder with --to, or remove '{partial}'",
            )
        if there is None:
            with replacing(partial / PLAN) as temporary:
                temporary.write_text(json.dumps(plan))
        if shards.is_dir():
            shards.rmdir()  # empty
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder itself is locked, as nothing but shards is to be in it. Raises UserError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise UserError(
                f"'{folder}' is in use",
                why="another process packs there",
                fix="wait for it, or name another folder with --to",
            ) from None
        yield


def _read_plan(path: Path) -> object | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _require_room(parts: Mapping[str, FileImages], partial: Path) -> None:
    """Raise ResourceError where the disk lacks the room for what is still to be written."""
    needed = -sum(file.stat().st_size for file in partial.rglob("*.tar"))
    for images in parts.values():
        needed += HEADERS * len(images) + _num_bytes(images)
    if needed > shutil.disk_usage(partial).free:
        raise disk_full(partial, f"some {needed / 2**20:.0f} MiB are to be written")


def _num_bytes(images: FileImages) -> int:
    if images.archives is not None:
        return sum((images.root / name).stat().st_size for name in images.archives.names)
    paths = (str(images.path(i)) for i in range(len(images)))
    return int(file_state(paths)[:, 0].clip(0).sum())


def _require_same(parts: Mapping[str, FileImages], partial: Path) -> None:
    """Open the shards as they will be; raise DataError unless they are the images of the set."""
    for name, images in parts.items():
        found = scan_tars(sorted((partial / name).glob("*.tar")))
        same = len(found) == len(images) and _texts(found) == _texts(images)
        if not same:
            raise DataError(
                f"the shards in '{partial / name}' open as other images than were packed",
                why=f"{counted(len(found), 'image')} of {len(images)}, or other classes",
                fix="tell the makers of ibot: this is a mistake of the program",
            )


def _changed(parts: Mapping[str, FileImages], partial: Path) -> DataError:
    """The error for files that are others than at the start: some were packed as they were, some as
    they are, and those of a disk that went away as empty ones.
    """
    roots = quoted({str(images.root) for images in parts.values()})
    return DataError(
        f"the images in {roots} changed while they were packed",
        why="sizes or times of files are not those of the start, or files are gone",
        fix=f"remove '{partial}', and run the same command again when they stay as they are",
    )


def _texts(images: FileImages) -> list[str]:
    """The class of each image; none where there are no labels."""
    if not isinstance(images, LabelledFiles):
        return []
    return [images.classes[i] for i in images.labels.tolist()]
