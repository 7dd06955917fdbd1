"""Images with a label map each: the class of every pixel (spec_evaluation 8.0.1, 8.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import MAX_PIXELS, RGB
from ibot.data.annotated.label_coding import (
    CLASS_FILES,
    Coding,
    ade20k,
    counted,
    read_coding,
    stored_values,
)
from ibot.data.decode import Orientation, UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.files import FileImages, file_images
from ibot.data.sets.parts import Part, find_parts, folder_names, part_of, quoted
from ibot.data.sets.scan import require_data, require_folder, scan
from ibot.errors import DataError
from ibot.rng import permutation
from ibot.words import counted as in_words

LABEL_ENDINGS = ("annot", "_annot", "_labels", "_masks")
"""Of the folder of label maps that lies beside a folder of images: `train`, `trainannot`."""
IMAGE_FOLDERS = ("images", "imgs", "JPEGImages")
LABEL_FOLDERS = ("annotations", "labels", "masks", "SegmentationClass")
"""Names of folders that hold the images, and the label maps, of all parts."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelMaps:
    """Images in files, and in a file for each the class of every pixel."""

    images: FileImages
    maps: FileImages
    """Files of the label maps, in the order of the images."""
    coding: Coding
    """What the stored values mean."""
    notes: tuple[str, ...] = ()
    """What a user should know of what was and was not taken, a sentence each."""
    _known: list[str] = field(default_factory=list, init=False, repr=False)

    @property
    def channels(self) -> tuple[str, ...]:
        """Red, green, blue."""
        return RGB

    def __len__(self) -> int:
        return len(self.images)

    @property
    def root(self) -> Path:
        """Folder of the images."""
        return self.images.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        return self.coding.classes

    def name(self, index: int) -> str:
        """Path of an image relative to the root."""
        return self.images.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of what `read` gives. Raises UnreadableImage."""
        return self.images.size(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return self.images.read(index)

    def label_map(self, index: int) -> NDArray[np.int16]:
        """Classes int16 [H, W] of an image, `IGNORED` where they are left out.

        Raises UnreadableImage; DataError for values of no class and maps of colours.
        """
        return self.coding.decoded(self._stored(index), str(self.maps.path(index)))

    def pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Pixels uint8 [H, W, 3] and classes int16 [H, W] of an image.

        Raises as `read` and `label_map`, and DataError where their sizes differ.
        """
        pixels, labels = self.read(index), self.label_map(index)
        if pixels.shape[:2] != labels.shape:
            (height, width), (rows, columns) = pixels.shape[:2], labels.shape
            raise DataError(
                f"'{self.images.path(index)}' and its label map have different sizes",
                why=f"{height} x {width} pixels, '{self.maps.path(index)}' {rows} x {columns}",
                fix="store the map at the image's size; of a picture that its EXIF tag turns, the "
                "upright one, or --exif-orientation ignore",
            )
        return pixels, labels

    def values(self) -> set[int]:
        """All values that the maps hold; those that cannot be read are passed over."""
        found: set[int] = set()
        for index in range(len(self)):
            try:
                found.update(np.unique(self._stored(index)).tolist())
            except UnreadableImage:
                continue
        return found

    def taken(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelMaps:
        """Some of the images, by number."""
        return replace(self, images=_taken(self.images, indices), maps=_taken(self.maps, indices))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the images', the files of the maps, and what their values mean."""
        if not self._known:
            parts = self.images.fingerprint(), self.maps.fingerprint(), repr(self.coding)
            self._known.append(fingerprints.digest("label maps", *parts))
        return self._known[0]

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data: folder, images, classes, and a hash of the names."""
        return {**self.images.provenance(), "classes": len(self.classes)}

    def _stored(self, index: int) -> NDArray[np.integer]:
        path = self.maps.path(index)
        return stored_values(path, self.coding.colours, self.images.max_pixels)


class _Folders(NamedTuple):
    """Where the images of a part and their label maps lie."""

    images: Path
    maps: Path


def open_label_maps(
    data: str,
    val_data: str = "",
    *,
    images: str = "",
    labels: str = "",
    split: float = 0.0,
    seed: int = 0,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
) -> tuple[LabelMaps, LabelMaps]:
    """Training and validation images with their label maps.

    The classes are those of a file that lies beside (`CLASS_FILES`), of ADE20K its own; else none
    are known yet: see `with_counted_classes`.

    Args:
        data: a folder with `train` and `trainannot` (`LABEL_ENDINGS`), `val` or `test` likewise; or
            with `images` and `annotations` (`IMAGE_FOLDERS`, `LABEL_FOLDERS`), which hold the
            parts, or all images.
        val_data: another such folder, to be judged on.
        images: a folder of images in the place of `data`, with parts or without.
        labels: the folder of their label maps.
        split: set this share aside (0..1, exclusive), where there is no validation part.
        seed: of that draw.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.

    Raises:
        DataError: something is missing or empty, or an image has no map.
    """
    parts = _named_folders(images, labels) if images or labels else _folders(data)
    if "train" not in parts:
        raise DataError(
            f"'{data or images}' has no training part", fix="call the folder of its images 'train'"
        )
    coding = _coding_of(data, parts["train"])
    how = {"exif_orientation": exif_orientation, "max_pixels": max_pixels}
    train = _pairs(parts["train"], coding, **how)
    held = parts.get("val")
    if val_data:
        others = _folders(val_data)
        held = others.get("val", others.get("train"))
    if held is not None:
        if split:
            raise DataError(
                f"a share of '{train.root}' is to be set aside, but there are validation images",
                why=f"they are in '{held.images}'",
                fix="leave out --split, or name the training images alone",
            )
        return train, _pairs(held, coding, **how)
    if not split:
        raise DataError(
            f"'{train.root}' has no validation part beside it",
            fix="add one (val and valannot, images/validation and annotations/validation), name "
            "other images (--val-data), or set a share of these aside (--split 0.2)",
        )
    return _split(train, split, seed)


def with_counted_classes(train: LabelMaps, val: LabelMaps) -> tuple[LabelMaps, LabelMaps]:
    """The same with the classes that all of their maps hold, where no file named any."""
    if train.classes:
        return train, val
    coding = counted(train.values() | val.values(), train.coding.ignored)
    note = f"classes are counted from the maps: {', '.join(coding.classes[:1])} to "
    note += f"{coding.classes[-1]}; a file classes.txt beside them names them, one a line"
    return replace(train, coding=coding, notes=(*train.notes, note)), replace(val, coding=coding)


def recoded(
    sets: tuple[LabelMaps, LabelMaps], classes: str = "", ignore: Sequence[int] = ()
) -> tuple[LabelMaps, LabelMaps]:
    """Both sets with the classes that a file names, and other values left out; empty: as they are.

    Raises DataError as `read_coding` and `counted`.
    """
    if not classes and not ignore:
        return sets
    train, val = sets
    coding = read_coding(Path(classes)) if classes else train.coding
    ignored = tuple(ignore) or coding.ignored
    if coding.from_maps:
        coding = counted(train.values() | val.values(), ignored)
    coding = replace(coding, ignored=ignored)
    return replace(train, coding=coding), replace(val, coding=coding)


def _folders(data: str) -> Mapping[Part, _Folders]:
    """The folders of each part below `data`. Raises DataError where none are found."""
    require_data(data)
    root = require_folder(data)
    names = folder_names(root)
    for images in (name for name in IMAGE_FOLDERS if name in names):
        for maps in (name for name in LABEL_FOLDERS if name in names):
            return _in_parts(root / images, root / maps)
    found: dict[Part, _Folders] = {}
    for name in sorted(names, key=lambda name: part_of(name) == "test"):  # val before test
        maps = next((name + ending for ending in LABEL_ENDINGS if name + ending in names), None)
        part = part_of(name)
        if maps is not None and part is not None:
            found.setdefault("val" if part == "test" else part, _Folders(root / name, root / maps))
    if not found:
        held = f"the folders {quoted(names)}" if names else "no folders"
        raise DataError(
            f"'{data}' is no folder of images with label maps",
            why=f"it holds {held}; looked for train and trainannot, images and annotations (or "
            "labels, masks)",
            fix="name both folders: --images DIR --labels DIR",
        )
    return found


def _named_folders(images: str, labels: str) -> Mapping[Part, _Folders]:
    if not (images and labels):
        given, other = ("--images", "--labels") if images else ("--labels", "--images")
        raise DataError(f"{given} is given without {other}", fix="name both folders")
    return _in_parts(require_folder(images, "--images"), require_folder(labels, "--labels"))


def _in_parts(images: Path, maps: Path) -> Mapping[Part, _Folders]:
    """The parts that lie in both folders by the same names; without parts all is for training."""
    parts = find_parts(images)
    if parts is None:
        return {"train": _Folders(images, maps)}
    held = parts.validation()
    chosen: dict[Part, Path] = {"train": parts.train, "val": held}
    for folder in chosen.values():
        if not (maps / folder.name).is_dir():
            raise DataError(
                f"'{folder}' has no label maps",
                why=f"there is no folder '{maps / folder.name}'",
                fix="store them there, under the names of the images",
            )
    return {part: _Folders(folder, maps / folder.name) for part, folder in chosen.items()}


def _coding_of(data: str, train: _Folders) -> Coding:
    """What a file beside the set says of the classes; else ADE20K's, or none."""
    beside = [train.maps, train.images, train.maps.parent, train.images.parent]
    places = [Path(data), *beside] if data else beside
    if train.images.name == train.maps.name:  # parts below images and annotations
        places.append(train.maps.parent.parent)
    for place in places:
        for name in CLASS_FILES:
            if (place / name).is_file():
                return read_coding(place / name)
    is_ade = (train.images.parent.name, train.maps.parent.name) == ("images", "annotations")
    return ade20k() if is_ade and train.images.name == "training" else Coding()


def _pairs(
    folders: _Folders, coding: Coding, exif_orientation: Orientation, max_pixels: int
) -> LabelMaps:
    """Each image with the map of its name. Raises DataError where one has none."""
    images, maps = scan(folders.images), scan(folders.maps)
    by_stem = {_stem(maps.name(i)): i for i in range(len(maps))}
    names = [_stem(images.name(i)) for i in range(len(images))]
    ending = _common_ending(names, by_stem)
    chosen = [by_stem.get(name + ending, -1) for name in names]
    if -1 in chosen:
        lacking = [images.name(i) for i, number in enumerate(chosen) if number < 0]
        raise DataError(
            f"{len(lacking)} of {len(names)} images in '{folders.images}' have no label map",
            why=f"{quoted(lacking, 2)}; '{folders.maps}' holds {quoted(by_stem, 2)}",
            fix="give each map the name of its image, or remove these images",
        )
    spare = len(maps) - len(set(chosen))
    notes = (f"{in_words(spare, 'label map')} in '{folders.maps}' without an image",)
    images = replace(images, exif_orientation=exif_orientation, max_pixels=max_pixels)
    return LabelMaps(
        images=images,
        maps=_taken(maps, chosen),
        coding=coding,
        notes=(*images.notes, *(notes if spare else ())),
    )


def _stem(name: str) -> str:
    """A relative path without its extension."""
    return str(Path(name).with_suffix(""))


def _common_ending(names: Sequence[str], maps: Mapping[str, int]) -> str:
    """What the names of maps have behind those of their images, as in `a_mask.png` of `a.jpg`."""
    if names[0] in maps:
        return ""
    endings = [name[len(names[0]) :] for name in maps if name.startswith(names[0])]
    return min(endings, key=len, default="")


def _taken(files: FileImages, indices: Sequence[int] | NDArray[np.int64]) -> FileImages:
    chosen = file_images(files.root, [files.name(int(i)) for i in indices])
    how = {"exif_orientation": files.exif_orientation, "max_pixels": files.max_pixels}
    return replace(chosen, notes=files.notes, **how)


def _split(train: LabelMaps, share: float, seed: int) -> tuple[LabelMaps, LabelMaps]:
    """Training and validation images: a `share` drawn by `seed`, at least one of each."""
    count = len(train)
    if count < 2:
        raise DataError(
            f"'{train.root}' holds one image", why="none can be set aside", fix="add images"
        )
    held = min(max(round(count * share), 1), count - 1)
    order = permutation(seed, 0, count)
    return train.taken(np.sort(order[held:])), train.taken(np.sort(order[:held]))
