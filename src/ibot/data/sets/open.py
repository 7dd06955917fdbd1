"""THE door to images: what a user names (folder, list, archives, a known set), opened."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from ibot.config.schema import MAX_PIXELS, Channels
from ibot.data.channels.opening import COLOUR, FILES, with_channels
from ibot.data.decode import Orientation
from ibot.data.sets.class_folders import as_classes, open_folder
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.lists import LISTS, open_list, scan_list
from ibot.data.sets.named import open_named
from ibot.data.sets.parts import Part, find_parts, part_of
from ibot.data.sets.scan import require_data, scan
from ibot.data.sets.subsets import split_labelled
from ibot.data.sets.tars import open_tars, scan_tars
from ibot.data.sets.variants import matched, read_as
from ibot.errors import DataError

COLOURS = Channels()
"""Colour pictures, as of old."""


def open_images(
    data: str,
    *,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = COLOURS,
) -> Images:
    """Images to train on, labelled or not; where they have parts, those of the training part.

    Args:
        data: a folder of images, flat or nested, or of the parts of a set; a list with a column
            `path` and perhaps `split`; tar files or a set by name, as for `open_labelled`.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.
        channels: which are read, where not colour pictures.

    Raises:
        DataError: as `scan`, `scan_list`, `scan_tars`, `open_named` and `with_channels`.
    """
    images = _scan(data, "train", channels)
    if images is None:
        raise _no_training_part(data)
    return with_channels(read_as(images, exif_orientation, max_pixels), channels)


def find_labelled(
    data: str,
    val_data: str = "",
    *,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = COLOURS,
) -> tuple[LabelledImages, LabelledImages] | None:
    """What `open_images` gives and validation images with the same classes, for k-NN during
    training; None where there are no labels or no validation part.

    More is taken than by `open_labelled`: class folders may be empty, for training goes on anyway.
    Raises DataError for `val_data` without labels or with a class that the training images lack.
    """
    how = exif_orientation, max_pixels
    val = _scan(val_data or data, "val", channels)
    if val is None and val_data:
        val = _scan(val_data, "train", channels, held_out=True)
    if val is None:
        return None
    train = open_images(data, exif_orientation=how[0], max_pixels=how[1], channels=channels)
    val = with_channels(read_as(val, *how), channels)
    if not isinstance(train, LabelledImages) or len(train.classes) < 2:
        without = train
    elif not isinstance(val, LabelledImages):
        without = val
    else:
        return train, matched(val, train.classes, (str(train.root), str(val.root)))
    if val_data:
        raise DataError(
            f"no class folders in '{without.root}'",
            fix="put the images of each class into a folder, or give a list with the columns "
            "path,label",
        )
    return None


def open_labelled(
    data: str,
    val_data: str = "",
    *,
    split: float = 0.0,
    seed: int = 0,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = COLOURS,
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images with the same classes, at least two; the latter may lack some.

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
        channels: which are read, where not colour pictures.

    Raises:
        DataError: something is missing or empty, labels are absent, validation images have a class
            that the training images lack, or a split is asked for where there are validation
            images.
    """
    if not data:
        raise DataError(
            "no data given", fix="name a folder, a list, tar files, or a set as in cifar10:DIR"
        )
    how = exif_orientation, max_pixels
    train = _open(data, "train", channels)
    if train is None:
        raise _no_training_part(data)
    if len(train.classes) < 2:
        raise DataError(
            f"'{data}' has fewer than two classes",
            why=f"all {len(train)} images are labelled '{''.join(train.classes)}'",
            fix="add images of another class",
        )
    train = _labelled(with_channels(read_as(train, *how), channels))
    val = _open(val_data or data, "val", channels)
    if val is None and val_data:
        val = _open(val_data, "train", channels, held_out=True)
    if val is None and split:
        return split_labelled(train, split, seed)
    if val is None:
        raise DataError(
            f"'{data}' has no validation part",
            why="looked for 'val' or 'test' and their other names (valid, validation, dev, "
            "testing): a folder beside 'train', a split of a list, a word in the names of tars",
            fix="name a second set of images (--val-data), or set a share of these aside (--split "
            "0.2)",
        )
    if split:
        raise DataError(
            f"a share of '{data}' is to be set aside, but there are validation images already",
            why=f"they are in '{val.root}'",
            fix="leave out --split, or name the training images alone",
        )
    val = _labelled(with_channels(read_as(val, *how), channels))
    return train, matched(val, train.classes, (data, val_data or data))


def _labelled(images: Images) -> LabelledImages:
    """Images with labels, still. Raises DataError where folders turned out to be channels."""
    if isinstance(images, LabelledImages):
        return images
    raise DataError(
        f"the images in '{images.root}' have no classes",
        why="files of one image lie in folders of different names",
        fix="put the folders of channels below those of classes",
    )


def _no_training_part(data: str) -> DataError:
    return DataError(f"'{data}' has no training part", fix="mark its images with the split 'train'")


def _open(
    data: str, part: Part, channels: Channels, *, held_out: bool = False
) -> LabelledImages | None:
    """One part of what `data` names; None where it has no such part.

    Data without parts are training data. Folders hold two classes or more, none empty, unless they
    are `held_out`.
    """
    if (named := _named(data)) is not None:
        return open_named(*named, part)
    if _is_list(data):
        return open_list(data, part)
    folder, archives = _place(data, part)
    if archives:
        return open_tars(archives)
    also = _further(channels)
    return folder and open_folder(folder, held_out=held_out or part == "val", also=also)


def _scan(data: str, part: Part, channels: Channels, *, held_out: bool = False) -> Images | None:
    """As `_open`, with labels where there are some."""
    if (named := _named(data)) is not None:
        return open_named(*named, part)
    if _is_list(data):
        return scan_list(data, part)
    folder, archives = _place(data, part)
    if archives:
        return scan_tars(archives)
    if folder is None:
        return None
    also = _further(channels)
    if held_out or part == "val":
        return as_classes(scan(folder, also))
    return scan(data, also)  # which finds the training part itself, and notes what it leaves out


def _further(channels: Channels) -> frozenset[str]:
    """Extensions of files that are images where their channels are read."""
    return frozenset() if channels.names == COLOUR else FILES


def _named(data: str) -> tuple[str, str] | None:
    """Name and folder of NAME:DIR. Raises DataError for an address, and for nothing."""
    require_data(data)
    name, colon, folder = data.partition(":")
    # A single letter is a drive.
    is_name = colon and len(name) > 1 and "/" not in name and not Path(data).exists()
    return (name.lower(), folder) if is_name else None


def _is_list(data: str) -> bool:
    path = Path(data)
    return path.suffix.lower() in LISTS and not path.is_dir()


def _place(data: str, part: Part) -> tuple[Path | None, list[Path]]:
    """The folder of a part, None where there is none, and the archives that stand in its place."""
    path = Path(data)
    if (parts := find_parts(path)) is not None:
        path = parts.train if part == "train" else parts.validation()
        return path, _archives(str(path))
    if archives := _archives(data):
        return None, _archives_of(part, archives)
    return path if part == "train" else None, []


def _archives(data: str) -> list[Path]:
    """The .tar files that `data` means: itself, a pattern, or all of a folder with nothing else."""
    path = Path(data)
    if path.is_dir():
        try:
            names = [name for name in os.listdir(path) if not name.startswith(".")]  # noqa: PTH208
        except OSError:  # `scan` will say so
            return []
        # Ends at the first other file: this may be a folder of millions of images.
        only_tars = all(_is_tar(path / name) for name in names)
        return sorted(path / name for name in names) if only_tars else []
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
    """Those of a part by a word of their names; where not both parts are there, all train."""
    by_part: dict[str | None, list[Path]] = {}
    for path in archives:
        words = (part_of(word) for word in re.findall("[a-z]+", path.stem.lower()))
        by_part.setdefault(next((word for word in words if word), None), []).append(path)
    val = by_part.get("val") or by_part.get("test") or []
    if by_part.get("train") and val:
        return by_part["train"] if part == "train" else val
    return archives if part == "train" else []
