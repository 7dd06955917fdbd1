"""THE door to images: what a user names (folder, list, archives, tables, stacks, a known set),
opened.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ibot.config.reading import MAX_PIXELS, PICTURES, WHOLE, Channels, Windows
from ibot.data.channels.opening import FILES, with_channels
from ibot.data.decode import Orientation
from ibot.data.sets.arrow_files import scan_arrow
from ibot.data.sets.class_folders import as_classes, open_folder
from ibot.data.sets.files import FileImages, file_images
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.lists import LISTS, open_list, scan_list
from ibot.data.sets.named import open_named
from ibot.data.sets.parquet import scan_parquet
from ibot.data.sets.parts import ONLY_TRAINING, Part
from ibot.data.sets.places import Place, find_place
from ibot.data.sets.scan import one_file, require_data, scan
from ibot.data.sets.several import window_of
from ibot.data.sets.stacks import StackImages, hold_pictures, open_stacks
from ibot.data.sets.subsets import split_labelled
from ibot.data.sets.tars import open_tars, scan_tars
from ibot.data.sets.variants import matched, read_as
from ibot.data.sets.windows import labelled_windows, windowed, windows_at
from ibot.errors import DataError


def open_images(
    data: str,
    *,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = PICTURES,
    windows: Windows = WHOLE,
) -> Images:
    """Images to train on, labelled or not; where they have parts, those of the training part.

    Args:
        data: a folder of images, flat or nested, or of the parts of a set; a list with a column
            `path` and perhaps `split`; files that hold many images or a set by name, as for
            `open_labelled`.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.
        channels: which are read, where not colour pictures.
        windows: in which images are seen.

    Raises:
        DataError: as `scan`, `scan_list`, `scan_tars`, `scan_parquet`, `scan_arrow`, `open_stacks`,
            `open_named`, `with_channels` and `windowed`.
    """
    images = _scan(data, "train", channels)
    if images is None:
        raise _no_training_part(data)
    most = _largest(max_pixels, channels, windows)
    images = with_channels(read_as(images, exif_orientation, most), channels)
    return windowed(images, windows, max_pixels)


def open_files(
    paths: Sequence[str],
    *,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = PICTURES,
    windows: Windows = WHOLE,
) -> Images:
    """Files of an image each, in this order, by their paths; the rest as for `open_images`.

    All paths or none may name a window of a file, as `slide.svs#x=0,y=512,w=512,h=512`.
    """
    named = [found for path in paths if (found := window_of(path)) is not None]
    most = sys.maxsize if named else _largest(max_pixels, channels, windows)
    files = file_images(Path(), [file for file, _ in named] or paths)
    images = with_channels(read_as(files, exif_orientation, most), channels)
    if named:
        return windows_at(images, [box for _, box in named])
    return windowed(images, windows, max_pixels)


def open_parts(
    data: str, channels: Channels = PICTURES, windows: Windows = WHOLE
) -> dict[str, Images]:
    """Images of all that is opened of `data`, by their part: `train` and `val`; of data without
    parts all, by the name "". `channels`: which are read, where not colour pictures; `windows`: in
    which they are seen.

    Raises DataError as `open_images`.
    """
    train, val = _scan(data, "train", channels), _scan(data, "val", channels)
    if train is None:
        raise _no_training_part(data)
    parts = {"": train} if val is None else {"train": _without_parts(train), "val": val}
    most = _largest(MAX_PIXELS, channels, windows)
    seen = {name: read_as(images, "apply", most) for name, images in parts.items()}
    return {
        name: windowed(with_channels(images, channels), windows) for name, images in seen.items()
    }


def find_labelled(
    data: str,
    val_data: str = "",
    *,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    channels: Channels = PICTURES,
    windows: Windows = WHOLE,
) -> tuple[LabelledImages, LabelledImages] | None:
    """What `open_images` gives and validation images with the same classes, for k-NN during
    training; None where there are no labels or no validation part.

    More is taken than by `open_labelled`: class folders may be empty, for training goes on anyway.
    Raises DataError for `val_data` without labels or with a class that the training images lack.
    """
    how = exif_orientation, _largest(max_pixels, channels, windows)
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
        val = matched(val, train.classes, (str(train.root), str(val.root)))
        return labelled_windows((train, val), windows, max_pixels)
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
    channels: Channels = PICTURES,
    windows: Windows = WHOLE,
) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images with the same classes, at least two; the latter may lack some.

    Args:
        data: a folder with the parts of a set (`train` and `val` or `test`, and `parts.WORDS`), or
            of class folders; a list with a column `split` or without; a .tar, .parquet, .arrow or
            .npy file or a zarr array, a pattern of them such as 'train-*.tar' or
            'train-{000..199}.tar', or a folder that holds nothing else; or NAME:DIR with a name
            of `NAMED_SETS`.
        val_data: the validation images, in the same forms; its validation part if it has one.
        split: set this share of each class aside (0..1, exclusive), where there is no validation
            part.
        seed: of that draw.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.
        channels: which are read, where not colour pictures.
        windows: in which images are seen, side by side over each.

    Raises:
        DataError: something is missing or empty, labels are absent, validation images have a class
            that the training images lack, or a split is asked for where there are validation
            images.
    """
    if not data:
        raise DataError(
            "no data given",
            fix="name a folder, a list, files that hold many images, or a set as in cifar10:DIR",
        )
    how = exif_orientation, _largest(max_pixels, channels, windows)
    train = _open(data, "train", channels)
    if train is None:
        raise _no_training_part(data)
    if len(train.classes) < 2:
        raise DataError(
            f"'{data}' has fewer than two classes",
            why=f"all {len(train)} images are labelled '{''.join(train.classes)}'",
            fix="add images of another class",
        )
    val = _open(val_data or data, "val", channels)
    if val is not None and not val_data:
        train = _without_parts(train)
    train = _labelled(with_channels(read_as(train, *how), channels))
    if val is None and val_data:
        val = _open(val_data, "train", channels, held_out=True)
    if val is None and split:
        return labelled_windows(split_labelled(train, split, seed), windows, max_pixels)
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
    val = matched(val, train.classes, (data, val_data or data))
    return labelled_windows((train, val), windows, max_pixels)


T = TypeVar("T", bound=Images)


def _without_parts(images: T) -> T:
    """The same images without the note that others are left out, where those are read too."""
    if not isinstance(images, FileImages | StackImages):
        return images
    said = tuple(note for note in images.notes if not note.startswith(ONLY_TRAINING))
    return replace(images, notes=said)


def _largest(max_pixels: int, channels: Channels, windows: Windows) -> int:
    """Pixels of the largest image whose header is read: of many channels it is read by the same
    readers as the pixels, of which windows need a part.
    """
    return sys.maxsize if windows.side and channels != PICTURES else max_pixels


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
    place = _place(data, part, channels)
    if place.form == "tar":
        return _noted(open_tars(place.files), place)
    if place.form:
        return _require_labels(_noted(_stored(place), place), data)
    if place.folder is None:
        return None
    also = _further(channels)
    images = open_folder(place.folder, held_out=held_out or part == "val", also=also)
    return _noted(images, place)


def _scan(data: str, part: Part, channels: Channels, *, held_out: bool = False) -> Images | None:
    """As `_open`, with labels where there are some."""
    if (named := _named(data)) is not None:
        return open_named(*named, part)
    if _is_list(data):
        return scan_list(data, part)
    place = _place(data, part, channels)
    if place.form:
        return _noted(_stored(place), place)
    if place.folder is None:
        return None
    also = _further(channels)
    if held_out or part == "val":
        return _noted(as_classes(scan(place.folder, also)), place)
    if (alone := one_file(place.folder, also)) is not None:
        return alone
    return scan(data, also)  # which finds the training part itself, and notes what it leaves out


S = TypeVar("S", bound=FileImages | StackImages | None)


def _noted(images: S, place: Place) -> S:
    """The same images, with what is said of their place."""
    return images if images is None else replace(images, notes=(*place.notes, *images.notes))


def _further(channels: Channels) -> frozenset[str]:
    """Extensions of files that are images where their channels are read."""
    return frozenset() if channels.names == PICTURES.names else FILES


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


def _place(data: str, part: Part, channels: Channels) -> Place:
    """As `find_place`; a folder of arrays may hold a picture each where channels are read."""
    place = find_place(data, part)
    if channels.names != PICTURES.names and place.form == "npy" and hold_pictures(place.files):
        return Place(folder=place.files[0].parent)
    return place


def _stored(place: Place) -> FileImages | StackImages | None:
    """The images in files that hold many; None where none belong to the part."""
    if place.form == "tar":
        return scan_tars(place.files)
    if place.form == "parquet":
        return scan_parquet(place.files, place.rows)
    if place.form == "arrow":
        return scan_arrow(place.files, place.rows)
    return open_stacks(place.files)


def _require_labels(images: Images | None, data: str) -> LabelledImages | None:
    """Raise DataError for images of which not each has a class."""
    if images is None or isinstance(images, LabelledImages):
        return images
    raise DataError(
        f"not every image of '{data}' has a class",
        why="tables have it in a column 'label', stacks in a file labels.npy beside them",
        fix="add the classes that are lacking",
    )
