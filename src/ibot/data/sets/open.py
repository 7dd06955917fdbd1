"""Training and validation images from what a user gives: a folder, a list, tar archives, or the
name of a set.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

from ibot.config.schema import MAX_PIXELS
from ibot.data.decode import Orientation
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.labelled import LabelledImages, Part, matched, read_as
from ibot.data.sets.lists import LISTS, open_list
from ibot.data.sets.named import open_named
from ibot.data.sets.parts import find_parts, part_of
from ibot.data.sets.scan import require_local
from ibot.data.sets.subsets import split_labelled
from ibot.data.sets.tars import open_tars
from ibot.errors import DataError


def open_labelled(
    data: str,
    val_data: str = "",
    *,
    split: float = 0.0,
    seed: int = 0,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images with the same classes, at least two. The latter may lack some
    of them.

    Args:
        data: a folder with the parts of a set (`train` and `val` or `test`, and `parts.WORDS`), or
            of class folders; a list with a column `split` or without; a .tar file, a pattern such
            as 'train-*.tar' or a folder that holds only .tar files; or NAME:DIR with a name of
            `NAMED_SETS`.
        val_data: the validation images, in the same forms; its validation part if it has one.
        split: set this share of each class aside (0..1, exclusive), where there is no validation
            part.
        seed: of that draw.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.

    Raises:
        DataError: something is missing or empty, labels are absent, validation images have a class
            that the training images lack, or a split is asked for where there are validation
            images.
    """
    if not data:
        raise DataError(
            "no data given", fix="name a folder, a list, tar files, or a set as in cifar10:DIR"
        )
    train = _open(data, "train")
    if train is None:
        raise DataError(
            f"'{data}' has no training part", fix="mark its images with the split 'train'"
        )
    if len(train.classes) < 2:
        raise DataError(
            f"'{data}' has fewer than two classes",
            why=f"all {len(train)} images are labelled '{''.join(train.classes)}'",
            fix="add images of another class",
        )
    train = read_as(train, exif_orientation, max_pixels)
    val = _open(val_data or data, "val")
    if val is None and val_data:
        val = _open(val_data, "train", held_out=True)
    if val is None and split:
        return split_labelled(train, split, seed)
    if val is None:
        raise DataError(
            f"'{data}' has no validation part",
            why="looked for 'val' or 'test' and their other names (valid, validation, dev, "
            "testing): a folder beside "
            "'train', a split of a list, a word in the names of tars",
            fix="name a second set of images (--val-data), or set a share of these aside (--split "
            "0.2)",
        )
    if split:
        raise DataError(
            f"a share of '{data}' is to be set aside, but there are validation images already",
            why=f"they are in '{val.root}'",
            fix="leave out --split, or name the training images alone",
        )
    val = read_as(val, exif_orientation, max_pixels)
    return train, matched(val, train.classes, (data, val_data or data))


def _open(data: str, part: Part, *, held_out: bool = False) -> LabelledImages | None:
    """One part of what `data` names; None where it has no such part. Data without parts are
    training data.

    Folders hold two classes or more, none empty, unless they are `held_out`.
    """
    name, colon, folder = data.partition(":")
    path = Path(data)
    require_local(data)
    if colon and len(name) > 1 and "/" not in name and not path.exists():  # one letter is a drive
        return open_named(name.lower(), folder, part)
    if path.suffix.lower() in LISTS and not path.is_dir():
        return open_list(path, part)
    if (parts := find_parts(path)) is not None:
        path = parts.train if part == "train" else parts.validation()
        archives = _archives(str(path))
        return open_tars(archives) if archives else open_folder(path, held_out=part == "val")
    if archives := _archives(data):
        archives = _archives_of(part, archives)
        return open_tars(archives) if archives else None
    return open_folder(path, held_out=held_out) if part == "train" else None


def _archives(data: str) -> list[Path]:
    """The .tar files that `data` means: itself, those of a pattern, or all of a folder that holds
    nothing else.
    """
    path = Path(data)
    if path.is_dir():
        try:
            files = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        except OSError:  # `scan` will say so
            return []
        return sorted(files) if all(_is_tar(entry) for entry in files) else []
    if not path.exists() and glob.has_magic(data):
        found = [Path(name) for name in sorted(glob.glob(data))]  # noqa: PTH207 - any part may be a pattern
        if not (archives := [file for file in found if _is_tar(file)]):
            raise DataError(
                f"no .tar file matches '{data}'",
                why=f"{len(found)} other files do",
                fix="check the pattern",
            )
        return archives
    return [path] if _is_tar(path) else []


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == ".tar" and path.is_file()


def _archives_of(part: Part, archives: list[Path]) -> list[Path]:
    """Those of a part by a word of their names; all are training data where there are not both
    parts.
    """
    by_part: dict[str | None, list[Path]] = {}
    for path in archives:
        words = (part_of(word) for word in re.findall("[a-z]+", path.stem.lower()))
        by_part.setdefault(next((word for word in words if word), None), []).append(path)
    val = by_part.get("val") or by_part.get("test") or []
    if by_part.get("train") and val:
        return by_part["train"] if part == "train" else val
    return archives if part == "train" else []
