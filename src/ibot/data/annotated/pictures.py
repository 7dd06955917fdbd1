"""Where the pictures lie in a set with annotations, for evaluations that need none of these."""

from __future__ import annotations

from pathlib import Path

from ibot.data.annotated.frames import davis_folder
from ibot.data.annotated.label_maps import IMAGE_FOLDERS, LABEL_ENDINGS, LABEL_FOLDERS
from ibot.data.sets.parts import folder_names, part_of

ORIGINALS, COPIES = ("original", "originals"), ("strong", "jpegqual", "crops")
"""Folders of Copydays: what the originals are called, and what lies beside them."""
_ANNOTATIONS = (*LABEL_FOLDERS, "Annotations")


def pictures_of(data: str) -> str:
    """The pictures of `data` where masks, label maps or altered copies lie in folders beside them.

    Of `train` and `trainannot` the first, of `images` and `annotations` (or DAVIS's names) the
    first with the parts that it may hold, of Copydays the originals. All else is what it was: a
    plain folder, a list, archives.
    """
    root = Path(data)
    names = folder_names(root) if data else []
    for name in names:
        if name in IMAGE_FOLDERS and not set(_ANNOTATIONS).isdisjoint(names):
            return str(davis_folder(root, name))
        if part_of(name) == "train" and any(name + ending in names for ending in LABEL_ENDINGS):
            return str(root / name)
        if name in ORIGINALS and not set(COPIES).isdisjoint(names):
            return str(root / name)
    return data
