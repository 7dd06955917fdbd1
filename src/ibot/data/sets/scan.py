"""Which images a folder holds, and what their class folders say."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ibot.data.decode import holds_more, is_gray
from ibot.data.formats import PAGED, extension, extensions, is_image, is_litter
from ibot.data.sets.channel_names import channel_files_note
from ibot.data.sets.classes import twins_note
from ibot.data.sets.files import FileImages, LabelledFiles, file_images, with_labels
from ibot.data.sets.fingerprints import State, state_of
from ibot.data.sets.listings import find_listing, keep_listing
from ibot.data.sets.parts import find_parts, folder_names, is_folder, part_note, part_of, quoted
from ibot.data.sets.passed_over import commonest, kind_of, passed_over_note
from ibot.errors import DataError, printable
from ibot.words import counted

RUN_MARKS = ("config.json", "checkpoints")
"""A folder that holds all of these is a run, not a folder of images."""
FIRST_PAGE_ONLY = "only the first page and up to three bands are read"
"""How the note on further pages begins, which is not true where all channels are read."""
File = TypeVar("File")
LOOKED_INTO = 500
"""Files of which `scan` counts those with further pages, frames and bands; of more, so many are
sampled."""


def scan(root: str | Path, also: frozenset[str] = frozenset()) -> FileImages:
    """All images below `root`, sorted; of a folder that holds the parts of a set (`parts.WORDS`)
    the training part.

    Files are taken by their extension (`formats.extensions` and `also`), those without one by their
    first bytes. Hidden and system files, run folders and empty folders are passed over; `notes`
    counts them. Symbolic links to folders are followed once, and only to what is not below `root`
    anyway. First-level folders are classes when every image lies in one and there are at least two:
    what comes back are `LabelledFiles` then.
    Raises DataError for a folder that is missing, unreadable or without images, and for parts not
    to be told apart.
    """
    require_data(str(root))
    folder = require_folder(root)
    folder, notes = _training_part(folder)
    images = None if also else find_listing(folder)
    if images is None:
        began = time.time()
        found = _walk(folder, also)
        images = _found_images(folder, found)
        if not also:
            keep_listing(images, found.watched, began)
    return replace(images, notes=(*notes, *images.notes))


def _found_images(folder: Path, found: _Found) -> FileImages:
    """What a walk found, with what is to be said of it. Raises DataError for no images."""
    if not found.names:
        raise DataError(
            f"no images found under '{folder}'",
            why=what_is_there(folder),
            fix=f"the extensions read are {' '.join(sorted(extensions()))}; convert the files or "
            "name another folder",
        )
    names = sorted(found.names)
    images = _with_classes(folder, names)
    twins = twins_note(images.classes) if isinstance(images, LabelledFiles) else []
    more = pages_note(found.paged, lambda name: holds_more(folder / name))
    channels = channel_files_note(names, lambda name: is_gray(folder / name))
    return replace(images, notes=(*twins, *channels, *found.notes(), *more))


def require_data(data: str) -> None:
    """Raise DataError for nothing, and for an address."""
    if not data:
        raise DataError(
            "no data folder given",
            fix="name the folder with your images: --data DIR, in Python data.path=DIR",
        )
    if "://" in data:
        raise DataError(
            f"'{data}' is an address",
            why="images are read from folders",
            fix="download them, and name the folder",
        )


def require_folder(root: str | Path, option: str = "--data") -> Path:
    """The folder that a user named by an `option`. Raises DataError where there is none."""
    folder = Path(root)
    if not folder.exists():
        raise DataError(
            f"there is no folder '{root}'",
            why=_nearest_parent(folder),
            fix=f"check the path given to {option}",
        )
    if not folder.is_dir():
        raise DataError(f"'{root}' is a file, not a folder", fix=_instead_of(folder))
    return folder


def one_file(file: Path, also: frozenset[str] = frozenset()) -> FileImages | None:
    """An image file as a set of one; None for anything else. `also` as for `scan`."""
    if not file.is_file():
        return None
    if extension(file.name) not in extensions() | also:
        with suppress(OSError), file.open("rb") as content:
            if not is_image(content.read(32)):
                return None
    paged = [file] if extension(file.name) in PAGED else []
    images = file_images(file.parent, [file.name])
    alone = f"'{printable(file.name)}' alone is read"
    return replace(images, notes=(alone, *pages_note(paged, holds_more)))


def _instead_of(file: Path) -> str:
    if file.name.lower().endswith(
        (".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar")
    ):
        return "unpack it, and name the folder; plain .tar files are read as they are"
    if extension(file.name) == ".npz":
        return "save its array as .npy, with its labels in labels.npy beside it"
    if extension(file.name) in (".csv", ".tsv", ".txt"):
        return "name the folder that holds the images; lists are for training and evaluations"
    return "give the folder that holds the images"


def _loose_note(folder: Path) -> list[str]:
    """What to say of pictures that lie beside the parts of a set and so belong to none."""
    read = extensions()
    with os.scandir(folder) as listing:
        names = [e.name for e in listing if extension(e.name) in read and e.is_file()]
    loose = [name for name in names if not is_litter(name, False)]
    if not loose:
        return []
    return [f"passed over beside the parts: {counted(len(loose), 'picture')}, {quoted(loose, 3)}"]


def _training_part(folder: Path) -> tuple[Path, list[str]]:
    """Where the images to train on lie, and what to say of it. Raises DataError."""
    if parts := find_parts(folder):
        notes = part_note("train", parts.train.name, parts.beside)
        return parts.train, [*notes, *_loose_note(folder)]
    held = [name for name in folder_names(folder) if part_of(name) in ("val", "test")]
    return folder, [
        f"'{name}' is read like any other folder: no training part lies beside it" for name in held
    ]


def pages_note(files: Sequence[File], look: Callable[[File], tuple[bool, bool]]) -> list[str]:
    """How many files in formats of several pages hold more than is read; `look`: `holds_more`."""
    places = np.linspace(0, len(files) - 1, min(LOOKED_INTO, len(files)))
    chosen = [files[int(place)] for place in places]
    more = [look(file) for file in chosen]
    counts = zip(
        np.array(more, bool).reshape(-1, 2).sum(0).tolist(),
        ("pages or frames", "bands"),
        strict=True,
    )
    kinds = [f"{number} with further {kind}" for number, kind in counts if number]
    sample = "" if len(chosen) == len(files) else f"of {len(chosen)} files looked into, "
    return [f"{FIRST_PAGE_ONLY}: {sample}{', '.join(kinds)}"] if kinds else []


def _with_classes(root: Path, names: Sequence[str]) -> FileImages:
    images = file_images(root, names)
    tops = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    classes = tuple(sorted(set(tops)))
    if len(classes) < 2 or "" in classes:
        return images
    number = {name: i for i, name in enumerate(classes)}
    labels = np.fromiter((number[top] for top in tops), np.int32, len(tops))
    return with_labels(images, labels, classes)


@dataclass
class _Found:
    """What a walk through a folder met."""

    names: list[str] = field(default_factory=list)
    """Relative, with forward slashes."""
    paged: list[str] = field(default_factory=list)
    """Those of formats with several pages."""
    other_files: Counter[str] = field(default_factory=Counter)
    """Files that are not read, by extension."""
    other_folders: Counter[str] = field(default_factory=Counter)
    """Folders that were not entered, by name."""
    nested: list[str] = field(default_factory=list)
    """Folders further down that hold the parts of a set."""
    watched: dict[str, State] = field(default_factory=dict)
    """Folders that were looked into, relative; how each was before it was."""

    def notes(self) -> list[str]:
        """A sentence on each kind."""
        notes = passed_over_note(self.other_files)
        if self.other_folders:
            notes.append(
                f"{counted(self.other_folders.total(), 'folder')} passed over: "
                f"{commonest(self.other_folders)}"
            )
        if self.nested:
            notes.append(
                f"all parts in {quoted(self.nested)} are read, those that seem to be held out too: "
                "name the training part with --data if that is not meant"
            )
        return notes


def _walk(root: Path, also: frozenset[str]) -> _Found:
    found, known = _Found(), extensions() | also
    seen: set[tuple[int, int]] = set()
    stack, links = [("", os.fspath(root))], []
    while stack or links:
        if not stack:
            # Links come after all real folders and by name: what is seen twice keeps one name on
            # every disk.
            links.sort(reverse=True)
            stack.append(links.pop())
        prefix, folder = stack.pop()
        entries = _entries(folder, prefix, found, seen)
        if prefix and {entry.name for entry in entries} >= set(RUN_MARKS):
            found.other_folders[prefix[:-1].rsplit("/", 1)[-1]] += 1
            continue
        parts = set()
        for entry in entries:
            name = entry.name
            if is_folder(entry):
                if is_litter(name, True):
                    found.other_folders[name] += 1
                    continue
                if extension(name) == ".zarr":  # an array, of many files
                    found.other_files[".zarr"] += 1
                    continue
                parts.add(part_of(name))
                (links if entry.is_symlink() else stack).append((f"{prefix}{name}/", entry.path))
                continue
            kind = extension(name)
            if (kind in known and name[0] != ".") or (not kind and _begins_as_image(entry)):
                if _is_file(entry):
                    found.names.append(prefix + name)
                    if kind in PAGED:
                        found.paged.append(prefix + name)
            else:
                found.other_files[kind_of(name)] += 1
        if "train" in parts and parts & {"val", "test"}:
            found.nested.append(prefix[:-1] or root.name)
    return found


def _begins_as_image(entry: os.DirEntry[str]) -> bool:
    try:
        if is_litter(entry.name, False) or not entry.is_file():
            return False
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return is_image(file.read(32))
    except OSError:
        return False


def _entries(
    folder: str, prefix: str, found: _Found, seen: set[tuple[int, int]]
) -> list[os.DirEntry[str]]:
    """What a folder holds; nothing when it was seen before. Raises DataError."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - os calls throughout: this runs over millions of entries
        found.watched[prefix] = state_of(status)
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(
            f"the folder '{folder}' cannot be listed",
            why=error.strerror or str(error),
            fix="make it readable, or name a folder beside it",
        ) from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Files, and links that lead nowhere (bad files), but no pipes or devices: those never end."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)  # noqa: PTH110
    except OSError:
        return True


def _nearest_parent(folder: Path) -> str:
    parent = next((p for p in folder.absolute().parents if p.is_dir()), Path("/"))
    return f"'{parent}' exists and holds the folders: {quoted(folder_names(parent), 6)}"


def what_is_there(folder: Path) -> str:
    """How many folders there are below `folder`, and which kinds of files."""
    kinds: Counter[str] = Counter()
    folders = 0
    for _, _, files in os.walk(folder):
        folders += 1
        kinds.update(extension(name) or "without extension" for name in files)
    return f"looked into {folders} folders and saw {commonest(kinds, 4) or 'no files'}"
