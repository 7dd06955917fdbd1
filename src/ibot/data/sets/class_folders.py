"""Folders whose first-level folders are the classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ibot.data.sets.labelled import FolderImages
from ibot.data.sets.parts import folder_names, part_of, quoted
from ibot.data.sets.scan import RUN_MARKS, as_classes, scan, what_is_there
from ibot.errors import DataError


def open_folder(root: str | Path, *, held_out: bool = False) -> FolderImages:
    """Images below `root` with its first-level folders as classes.

    Raises DataError for images outside of class folders, and as `scan`; unless the images are held
    out from others that have all classes, also for a class folder without images (else a note names
    it) and for a single class.
    """
    source = as_classes(scan(root)) if held_out else scan(root)
    root = source.root
    if source.labels is None:
        names = [source.name(i) for i in range(len(source))]
        if loose := [name for name in names if "/" not in name]:
            raise DataError(
                f"no class folders in '{root}'",
                why=f"{len(loose)} images lie directly in it, such as '{loose[0]}'",
                fix="put the images of each class into a folder, or give a list with the columns "
                "path,label",
            )
    used = source.classes or (source.name(0).split("/", 1)[0],)
    empty = [name for name in _class_folders(root) if name not in used]
    if empty and held_out:
        source = replace(
            source,
            notes=(*source.notes, f"class folders without images in '{root}': {quoted(empty)}"),
        )
    elif empty:
        first = root / empty[0]
        raise DataError(
            f"the class folder '{first}' is empty"
            if not any(first.iterdir())
            else f"no images in the class '{first}'",
            why=f"{what_is_there(first)}; without an image of their own are {quoted(empty)}",
            fix="add images, convert them to a format that is read, or remove the folder",
        )
    if source.labels is None:
        fix = "each class needs its own folder directly in the one named"
        if part_of(used[0]) == "train":
            aside = f"--data {root / used[0]} --split 0.2"
            fix = f"put validation images into '{root / 'val'}', or set a share aside: {aside}"
        raise DataError(
            f"'{root}' has fewer than two classes", why=f"all images lie in '{used[0]}'", fix=fix
        )
    return FolderImages(source)


def _class_folders(root: Path) -> list[str]:
    """First-level folders that `scan` looks into, sorted."""
    return [
        name
        for name in folder_names(root)
        if not all((root / name / mark).exists() for mark in RUN_MARKS)
    ]
