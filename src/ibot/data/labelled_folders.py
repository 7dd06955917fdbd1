"""Folders whose first-level folders are the classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ibot.data.labels import FolderImages
from ibot.data.sources import RUN_MARKS, scan
from ibot.errors import DataError


def open_folder(root: str | Path) -> FolderImages:
    """Images below `root` with its first-level folders as classes.

    Raises DataError for images outside of class folders, a class folder without images, a single class, and as `scan`.
    """
    source = scan(root)
    root = source.root
    if source.labels is None:
        names = [source.name(i) for i in range(len(source))]
        if loose := [name for name in names if "/" not in name]:
            raise DataError(
                f"no class folders in '{root}'",
                why=f"{len(loose)} images lie directly in it, such as '{loose[0]}'",
                fix="put the images of each class into a folder, or give a list with the columns path,label",
            )
    used = source.classes or (source.name(0).split("/", 1)[0],)
    if empty := [name for name in _class_folders(root) if name not in used]:
        raise DataError(
            f"the class folder '{root / empty[0]}' is empty",
            why=f"{len(empty)} folders in '{root}' hold no image of their own: {first_five(empty)}",
            fix="add images, or remove the folder",
        )
    if source.labels is None:
        raise DataError(
            f"'{root}' has fewer than two classes",
            why=f"all images lie in '{used[0]}'",
            fix="each class needs its own folder directly in the one named",
        )
    return FolderImages(source)


def _class_folders(root: Path) -> list[str]:
    """First-level folders that `scan` looks into, sorted."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name != "__MACOSX" and path.name[0] != "."]
    return sorted(path.name for path in folders if not all((path / mark).exists() for mark in RUN_MARKS))


def first_five(names: Iterable[str]) -> str:
    """The first five in order, and how many more there are; 'none' without any."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if ordered[5:] else ""
    return ", ".join(f"'{name}'" for name in ordered[:5]) + more or "none"
