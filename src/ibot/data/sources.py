"""Which images a folder holds, and what their class folders say."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import Orientation, decode
from ibot.errors import DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
VAL_NAMES = ("val", "test")
RUN_MARKS = ("config.json", "checkpoints")
"""A folder that holds all of these is a run, not a folder of images."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The images below one folder, in a fixed order.

    Names are kept in one buffer, so that millions of them cost little memory and travel to workers in one piece.
    """

    root: Path
    names: bytes
    """Relative paths, UTF-8 with surrogates, one after the other."""
    ends: NDArray[np.int64]
    """int64 [n], where each name ends in `names`."""
    labels: NDArray[np.int32] | None
    """int32 [n], index into `classes`; None without class folders."""
    classes: tuple[str, ...]
    exif_orientation: Orientation = "apply"
    """Whether `read` turns pictures upright by their EXIF tag."""

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> str:
        """Path of an image relative to the root."""
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.names[start : self.ends[index]])

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / self.name(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return decode(self.path(index), self.exif_orientation)

    def label(self, index: int) -> int | None:
        """Class of an image, None without class folders."""
        return None if self.labels is None else int(self.labels[index])

    def fingerprint(self) -> dict[str, object]:
        """What identifies the data in a run's provenance: folder, count, classes, hash of the names."""
        digest = hashlib.sha256(self.names).hexdigest()[:16]
        return {"root": str(self.root), "images": len(self), "classes": len(self.classes), "names_sha256": digest}


def scan(root: str | Path) -> ImageSource:
    """All images below `root`, sorted; of a folder with `train` and `val` (or `test`) only `train`.

    Hidden files, side files of other systems, run folders and empty folders are passed over. Symbolic links to folders
    are followed once, and only to what is not below `root` anyway. First-level folders are classes when every image
    lies in one and there are at least two. Raises DataError for a folder that is missing, unreadable or without images.
    """
    folder = Path(root)
    if not str(root):
        raise DataError("no data folder given", fix="--data DIR names the folder with your images")
    if not folder.exists():
        raise DataError(
            f"there is no folder '{root}'", why=_nearest_parent(folder), fix="check the path given to --data"
        )
    if not folder.is_dir():
        raise DataError(f"'{root}' is a file, not a folder", fix="give the folder that holds the images")
    if _is_split(folder):
        folder = folder / "train"
    names = sorted(_image_names(folder))
    if not names:
        raise DataError(
            f"no images found under '{folder}'",
            why=_what_is_there(folder),
            fix=f"the extensions read are {' '.join(sorted(EXTENSIONS))}; convert the files or name another folder",
        )
    return _source(folder, names)


def pack_names(
    root: Path, names: Sequence[str], labels: NDArray[np.int32] | None, classes: tuple[str, ...]
) -> ImageSource:
    """The images `names` (relative to `root`) in their order, with labels int32 [n] into `classes` or None."""
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return ImageSource(root, b"".join(encoded), ends, labels, classes)


def labelled_sets(data: str, val_data: str = "") -> tuple[ImageSource, ImageSource] | None:
    """Training and validation images with the same classes, or None where there are no labels.

    `data` holds `train` and `val` (or `test`), or it holds class folders and `val_data` names the other set; of a
    `val_data` with such parts, `val` (or `test`) is taken. Raises DataError when the class names of the two differ.
    """
    val_folder = Path(val_data or data)
    if not val_data or _is_split(val_folder):
        val_folder = next((val_folder / name for name in VAL_NAMES if (val_folder / name).is_dir()), None)
    if val_folder is None:
        return None
    train, val = scan(data), scan(val_folder)
    if train.labels is None or val.labels is None:
        if val_data:
            missing = train if train.labels is None else val
            raise DataError(f"no class folders in '{missing.root}'", fix="put the images of each class into a folder")
        return None
    if train.classes != val.classes:
        only_train, only_val = (
            sorted(set(train.classes) - set(val.classes)),
            sorted(set(val.classes) - set(train.classes)),
        )
        raise DataError(
            f"'{train.root}' and '{val.root}' have different classes",
            why=f"only in the first: {only_train[:5] or 'none'}; only in the second: {only_val[:5] or 'none'}",
            fix="give both the same class folders",
        )
    return train, val


def _is_split(folder: Path) -> bool:
    return (folder / "train").is_dir() and any((folder / name).is_dir() for name in VAL_NAMES)


def _source(root: Path, names: Sequence[str]) -> ImageSource:
    tops = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    classes = tuple(sorted(set(tops)))
    labels = None
    if len(classes) >= 2 and "" not in classes:
        number = {name: i for i, name in enumerate(classes)}
        labels = np.fromiter((number[top] for top in tops), np.int32, len(tops))
    return pack_names(root, names, labels, classes if labels is not None else ())


def _image_names(root: Path) -> Iterator[str]:
    """Relative names of all image files, with forward slashes."""
    seen: set[tuple[int, int]] = set()
    stack, links = [("", os.fspath(root))], []
    while stack or links:
        if not stack:
            # Links come after all real folders and by name: what is seen twice keeps one name on every disk.
            links.sort(reverse=True)
            stack.append(links.pop())
        prefix, folder = stack.pop()
        entries = _listing(folder, seen)
        if prefix and {entry.name for entry in entries} >= set(RUN_MARKS):
            continue
        for entry in entries:
            if _is_folder(entry):
                (links if entry.is_symlink() else stack).append((f"{prefix}{entry.name}/", entry.path))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS and _is_file(entry):  # noqa: PTH122
                yield prefix + entry.name


def _listing(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """What a folder holds, hidden and side files left out; nothing when it was seen before. Raises DataError."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - os calls throughout: this runs over millions of entries
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise DataError(
            f"the folder '{folder}' cannot be listed",
            why=error.strerror or str(error),
            fix="make it readable, or name a folder beside it",
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that must not be read
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Files and links that lead nowhere (they count as bad files), but no pipes or devices: those never end."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)  # noqa: PTH110
    except OSError:
        return True


def _nearest_parent(folder: Path) -> str:
    parent = next((p for p in folder.absolute().parents if p.is_dir()), Path("/"))
    inside = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))[:6]
    return f"'{parent}' exists and holds the folders: {', '.join(inside) or 'none'}"


def _what_is_there(folder: Path) -> str:
    kinds: Counter[str] = Counter()
    folders = 0
    for _, _, files in os.walk(folder):
        folders += 1
        kinds.update(os.path.splitext(name)[1].lower() or "no extension" for name in files)  # noqa: PTH122
    seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no files"
    return f"looked into {folders} folders and saw {seen}"
