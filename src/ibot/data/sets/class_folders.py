"""Folders whose first-level folders are the classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ibot.data.sets.files import FileImages, LabelledFiles, with_labels
from ibot.data.sets.parts import folder_names, part_of, quoted
from ibot.data.sets.scan import RUN_MARKS, scan, what_is_there
from ibot.errors import DataError


def open_folder(
    root: str | Path, *, held_out: bool = False, also: frozenset[str] = frozenset()
) -> LabelledFiles:
    """Images below `root` with its first-level folders as classes; `also` as for `scan`.

    Raises DataError for images outside of class folders, and as `scan`; unless the images are held
    out from others that have all classes, also for a class folder without images (else a note names
    it) and for a single class.
    """
    images = as_classes(scan(root, also)) if held_out else scan(root, also)
    root = images.root
    if isinstance(images, LabelledFiles):
        used = images.classes
    else:
        _require_folders(images)
        used = (images.name(0).split("/", 1)[0],)
    empty = [name for name in _class_folders(root) if name not in used]
    if empty and held_out:
        note = f"class folders without images in '{root}': {quoted(empty)}"
        images = replace(images, notes=(*images.notes, note))
    elif empty:
        first = root / empty[0]
        raise DataError(
            f"the class folder '{first}' is empty"
            if not any(first.iterdir())
            else f"no images in the class '{first}'",
            why=f"{what_is_there(first)}; without an image of their own are {quoted(empty)}",
            fix="add images, convert them to a format that is read, or remove the folder",
        )
    if not isinstance(images, LabelledFiles):
        fix = "each class needs its own folder directly in the one named"
        if part_of(used[0]) == "train":
            aside = f"--data {root / used[0]} --split 0.2"
            fix = f"put validation images into '{root / 'val'}', or set a share aside: {aside}"
        raise DataError(
            f"'{root}' has fewer than two classes", why=f"all images lie in '{used[0]}'", fix=fix
        )
    return replace(images, kind="folder")


def as_classes(images: FileImages) -> FileImages:
    """The same images with one class where all lie in one folder: others may be lacking."""
    top, slash, _ = images.name(0).partition("/")
    if isinstance(images, LabelledFiles) or not slash:
        return images
    if any(not images.name(i).startswith(top + slash) for i in range(len(images))):
        return images
    return with_labels(images, np.zeros(len(images), np.int32), (top,))


def _require_folders(images: FileImages) -> None:
    """Raise DataError for images that lie in no folder."""
    names = (images.name(i) for i in range(len(images)))
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"no class folders in '{images.root}'",
            why=f"{len(loose)} images lie directly in it, such as '{loose[0]}'",
            fix="put the images of each class into a folder, or give a list with the columns "
            "path,label",
        )


def _class_folders(root: Path) -> list[str]:
    """First-level folders that `scan` looks into, sorted."""
    return [
        name
        for name in folder_names(root)
        if not all((root / name / mark).exists() for mark in RUN_MARKS)
    ]
