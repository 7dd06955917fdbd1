"""THE door to images with objects: what a user names, found and opened.

Layouts of a folder: `train/ val/ annotations/instances_train.json instances_val.json`; COCO's own,
`train2017/ val2017/ annotations/instances_train2017.json ...`; Roboflow's,
`train/_annotations.coco.json valid/_annotations.coco.json`. Or an annotation file alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ibot.config.reading import MAX_PIXELS
from ibot.data.annotated.coco import CocoImages, coco_images
from ibot.data.annotated.coco_file import read_coco_file
from ibot.data.decode import Orientation
from ibot.data.sets.lists import listed_files
from ibot.data.sets.parts import PartName, folder_names, part_of, quoted
from ibot.errors import DataError
from ibot.rng import permutation

BESIDE = "_annotations.coco.json"
"""Annotations within a folder of images, as Roboflow writes them."""
_INSTANCES = "instances_"
_LAYOUTS = (
    "looked for annotations/instances_train*.json and instances_val*.json, and for "
    f"{BESIDE} in the folders train and valid"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """An annotation file, and folders in which its images may lie."""

    file: Path
    folders: tuple[Path, ...]


def open_coco(
    data: str = "",
    *,
    images: str = "",
    labels: str = "",
    val_data: str = "",
    split: float = 0.0,
    seed: int = 0,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
) -> tuple[CocoImages, CocoImages]:
    """Images to train on and to be judged on, with the same classes.

    Args:
        data: a folder in one of the layouts, or an annotation file.
        images: a folder of images, in place of `data`.
        labels: the annotation file of those, or of `data`.
        val_data: where `data` has no validation part, as `data`; its validation part if it has one.
        split: set this share of the images aside (0..1, exclusive) for want of a validation part.
        seed: of that draw.
        exif_orientation: how images are read of which the sizes do not tell, see `CocoImages`.
        max_pixels: larger images are not read.

    Raises:
        DataError: something is missing, empty, or does not belong together.
    """

    def opened(place: _Place) -> CocoImages:
        return _open(place, exif_orientation, max_pixels)

    named = images or data
    if not named:
        raise DataError(
            "no data given",
            fix="name a folder in COCO's layout (--data), or images and their annotation file "
            "(--images DIR --labels FILE.json)",
        )
    train, val = _places(named, labels)
    if train is None:
        raise DataError(
            f"'{named}' has no annotations to train on",
            why=_LAYOUTS,
            fix="name the file with the annotations: --images DIR --labels FILE.json",
        )
    if val_data:
        first, second = _places(val_data, "", beside=train.folders)
        val = second or first
        if val is None:
            raise DataError(
                f"'{val_data}' has no annotations", why=_LAYOUTS, fix="name the annotation file"
            )
    if val is None and split:
        return _split(opened(train), split, seed)
    if val is None:
        raise DataError(
            f"'{named}' has no validation part",
            why=f"'{train.file}' is all that is named" if labels else _LAYOUTS,
            fix="name a second set (--val-data), or set a share of these images aside "
            "(--split 0.2)",
        )
    if split:
        raise DataError(
            f"a share of '{named}' is to be set aside, but there are validation images already",
            why=f"they are in '{val.file}'",
            fix="leave out --split, or name the training annotations alone",
        )
    learned = opened(train)
    return learned, opened(val).with_classes_of(learned)


def _split(images: CocoImages, share: float, seed: int) -> tuple[CocoImages, CocoImages]:
    """A share of the images, drawn by `seed`, comes second. Raises DataError for too few."""
    count = max(1, round(share * len(images)))
    if count >= len(images):
        raise DataError(
            f"'{images.root}' is too small for a validation part",
            why=f"{len(images)} images, of which {count} were to be set aside",
            fix="add images, or name a second set",
        )
    order = permutation(seed, 0, len(images))
    return images.subset(np.sort(order[count:])), images.subset(np.sort(order[:count]))


def _places(
    named: str, labels: str, beside: Sequence[Path] = ()
) -> tuple[_Place | None, _Place | None]:
    """Where the training and the validation part lie that `named` has, alone or with `labels`.

    beside: further folders in which images may lie. Raises DataError.
    """
    path = Path(named)
    if labels:
        return _Place(Path(labels), (path,)), None
    if path.is_file() or path.suffix.lower() == ".json":
        above = path.parent.parent
        part = part_of(path.stem.removeprefix(_INSTANCES))
        named_so = _folders_of(above, part) if part else []
        return _Place(path, (path.parent, *named_so, above, *beside)), None
    if not path.is_dir():
        raise DataError(f"there is no folder '{named}'", fix="check the path")
    return _part(path, "train"), _part(path, "val") or _part(path, "test")


def _part(folder: Path, part: PartName) -> _Place | None:
    """The annotations of a part of `folder`. Raises DataError where several files have them."""
    above = folder / "annotations"
    files = sorted(above.glob("*.json")) if above.is_dir() else []
    found = [file for file in files if part_of(file.stem.removeprefix(_INSTANCES)) == part]
    found = [file for file in found if file.stem.startswith(_INSTANCES)] or found
    folders = _folders_of(folder, part)
    if not found:
        found = [one / BESIDE for one in folders if (one / BESIDE).is_file()]
        folders = [file.parent for file in found]
    if len(found) > 1:
        raise DataError(
            f"'{folder}' has several files of annotations to {_USES[part]}",
            why=quoted(file.name for file in found),
            fix="name one of them in place of the folder",
        )
    return _Place(found[0], (*folders, folder / "images", folder)) if found else None


_USES: dict[PartName, str] = {"train": "train on", "val": "be judged on", "test": "be judged on"}


def _folders_of(folder: Path, part: PartName) -> list[Path]:
    """Folders called as a part, in `folder` and in its `images`."""
    above = (folder, folder / "images")
    return [one / name for one in above for name in folder_names(one) if part_of(name) == part]


def _open(place: _Place, exif_orientation: Orientation, max_pixels: int) -> CocoImages:
    content = read_coco_file(place.file)
    names = [name.replace("\\", "/") for name in content.names]
    folder, names = _find_images(place, names)
    files = listed_files(folder, names, f"'{place.file}'")
    files = replace(files, exif_orientation=exif_orientation, max_pixels=max_pixels)
    return coco_images(content, files, f"'{place.file.name}'")


def _find_images(place: _Place, names: list[str]) -> tuple[Path, list[str]]:
    """The folder that holds the images, and their names in it.

    Names with the path of another machine are shortened. The first folder where nothing is found.
    """
    tried = [names[i] for i in sorted({0, len(names) // 2, len(names) - 1})]
    short = [os.path.basename(name) for name in names]  # noqa: PTH119 - a path costs 5 us
    for known, probes in ((names, tried), (short, [Path(name).name for name in tried])):
        for folder in place.folders:
            if any((folder / name).is_file() for name in probes):
                return folder, known
    return place.folders[0], names
