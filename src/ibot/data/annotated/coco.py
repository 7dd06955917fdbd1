"""Images with boxes, classes and masks of their objects, from a file in COCO's format (8.9.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import RGB
from ibot.data.annotated.bitmaps import bitmap
from ibot.data.annotated.coco_file import HANDFUL, SHARE, Annotations, CocoFile
from ibot.data.decode import UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.files import FileImages, file_images
from ibot.errors import DataError
from ibot.words import counted

LOOKED_INTO = 64
"""Images of which the size in the file is compared with that in the annotations at once."""
LEAST_SIDE = 32
"""Pixels of the shorter side of images to train on."""


class Objects(NamedTuple):
    """What there is to learn in an image."""

    boxes: NDArray[np.float32]
    """float32 [n, 4], left, top, right, bottom in pixels; may reach beyond the image."""
    labels: NDArray[np.int64]
    """int64 [n]."""
    masks: NDArray[np.uint8] | None
    """uint8 [n, H, W] of 0 and 1."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CocoImages:
    """Images in files, with their objects.

    Boxes lie in the pixels of the size that the annotations give for their image. Where the EXIF
    tag turns an image by a quarter, that size tells whether it was annotated upright or as it is
    stored, and so it is read; where it does not tell, `exif_orientation` decides, as for all
    images. (The published code reads by OpenCV, which turns images upright.)
    """

    files: FileImages
    ids: NDArray[np.int64]
    """int64 [n], by which results name images."""
    sizes: NDArray[np.int64]
    """int64 [n, 2], height and width."""
    category_ids: tuple[int, ...]
    """By which results name classes; a label is a place in here."""
    categories: tuple[str, ...]
    """Names of the classes, those without an object too."""
    annotations: Annotations
    notes: tuple[str, ...] = ()
    has_masks: bool
    """Whether objects have masks: all, or all but a handful, whose boxes serve."""

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """int64 [n + 1], the first annotation of each image."""
        return np.searchsorted(self.annotations.image, np.arange(len(self) + 1))

    @cached_property
    def trained(self) -> NDArray[np.bool_]:
        """Which annotations are learned from: bool [m], by the filter of 8.9.1."""
        found = self.annotations
        return ~(found.crowd | found.ignored | outside(found, self.sizes) | tiny(found))

    def num_trained(self) -> NDArray[np.int64]:
        """Annotations of each image that are learned from: int64 [n]."""
        return np.bincount(self.annotations.image[self.trained], minlength=len(self))

    @property
    def root(self) -> Path:
        """Folder of the images."""
        return self.files.root

    @property
    def channels(self) -> tuple[str, ...]:
        """Red, green, blue."""
        return RGB

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, index: int) -> str:
        """Path of an image relative to the root."""
        return self.files.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, by the annotations."""
        height, width = self.sizes[index].tolist()
        return height, width

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels, uint8 [H, W, 3]. Raises UnreadableImage, for another size than annotated too."""
        return read_as_annotated(self.files, index, self.size(index))

    def fingerprint(self) -> str:
        """SHA-256 in hex of the images' fingerprint and all that is said of them."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        found = self.annotations
        return fingerprints.digest(
            "coco",
            self.files.fingerprint(),
            *(self.ids, self.sizes, np.array(self.category_ids), *self.categories),
            *(found.image, found.boxes, found.areas, found.labels, found.crowd, found.ignored),
            *(found.masks, found.ends),
        )

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data: folder, images, classes, and a hash of the names."""
        return {**self.files.provenance(), "classes": len(self.categories)}

    def objects(self, index: int, *, masks: bool) -> Objects:
        """Those of an image that are learned from.

        Raises MissingExtra for masks without the library that draws polygons.
        """
        start, end = self._starts[index : index + 2]
        rows = start + np.flatnonzero(self.trained[start:end])
        boxes = self.annotations.boxes[rows].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels, size = self.annotations.labels[rows], self.size(index)
        if not masks:
            return Objects(boxes, labels, None)
        bitmaps = np.zeros((len(rows), *size), np.uint8)
        for place, row in enumerate(rows.tolist()):
            bitmaps[place] = bitmap(self._segmentation(row), size)
        return Objects(boxes, labels, bitmaps)

    def _segmentation(self, row: int) -> Any:
        """That of an annotation, else its box."""
        found = self.annotations.segmentation(row)
        if found is None:
            x, y, w, h = self.annotations.boxes[row].tolist()
            found = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        return found

    def to_train(self) -> CocoImages:
        """The images with an annotation, a crowd's too, whose shorter side is not below 32.

        Raises DataError where there is none.
        """
        annotated = np.diff(self._starts) > 0
        kept = np.flatnonzero(annotated & (self.sizes.min(1) >= LEAST_SIDE))
        if not self.trained.any() or not len(kept):
            raise DataError(
                f"nothing in '{self.root}' can be trained on",
                why=f"of {counted(len(self), 'image')}, {annotated.sum()} have annotations, and "
                f"{self.trained.sum()} of these are boxes of a pixel or more inside of their image",
                fix=f"sides of {LEAST_SIDE} pixels and a box in one image are the least",
            )
        return self if len(kept) == len(self) else self.subset(kept)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> CocoImages:
        """Some of the images, with all classes."""
        chosen = np.asarray(indices, np.int64)
        new = np.full(len(self), -1)
        new[chosen] = np.arange(len(chosen))
        found = self.annotations
        rows = np.flatnonzero(new[found.image] >= 0)
        rows = rows[np.argsort(new[found.image[rows]], kind="stable")]
        starts = np.concatenate([[0], found.ends])
        texts = [found.masks[starts[row] : starts[row + 1]] for row in rows.tolist()]
        names = [self.name(i) for i in chosen.tolist()]
        files = self.files
        return replace(
            self,
            files=replace(
                file_images(files.root, names, files.kind),
                exif_orientation=files.exif_orientation,
                max_pixels=files.max_pixels,
            ),
            ids=self.ids[chosen],
            sizes=self.sizes[chosen],
            annotations=Annotations(
                image=new[found.image[rows]],
                boxes=found.boxes[rows],
                areas=found.areas[rows],
                labels=found.labels[rows],
                crowd=found.crowd[rows],
                ignored=found.ignored[rows],
                masks=b"".join(texts),
                ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
            ),
        )

    def with_classes_of(self, other: CocoImages) -> CocoImages:
        """The same images with the classes of `other`. Raises DataError where one lacks there."""
        named = dict(zip(other.category_ids, other.categories, strict=True))
        for number, name in zip(self.category_ids, self.categories, strict=True):
            if named.get(number) != name:
                theirs = f"'{named[number]}'" if number in named else "nothing"
                raise DataError(
                    f"the images in '{self.root}' have other classes than those to train on",
                    why=f"category {number} is '{name}' here and {theirs} there",
                    fix="number and name the categories alike in both files",
                )
        place = np.array([other.category_ids.index(number) for number in self.category_ids])
        annotations = replace(self.annotations, labels=place[self.annotations.labels])
        return replace(
            self,
            annotations=annotations,
            category_ids=other.category_ids,
            categories=other.categories,
        )

    def truth(self) -> dict[str, Any]:
        """All annotations in COCO's format, numbered from 1, as libraries of its metrics take them.

        The libraries take an object numbered 0 for none.
        """
        found, images = self.annotations, []
        for i, (height, width) in enumerate(self.sizes.tolist()):
            number = int(self.ids[i])
            shape = {"height": height, "width": width}
            images.append({"id": number, "file_name": self.name(i), **shape})
        annotations = []
        for row in range(len(found)):
            one = {
                "id": row + 1,
                "image_id": int(self.ids[found.image[row]]),
                "category_id": self.category_ids[found.labels[row]],
                "bbox": found.boxes[row].tolist(),
                "area": float(found.areas[row]),
                "iscrowd": int(found.crowd[row]),
            }
            if self.has_masks:
                one["segmentation"] = self._segmentation(row)
            annotations.append(one)
        names = zip(self.category_ids, self.categories, strict=True)
        categories = [{"id": number, "name": name} for number, name in names]
        return {"images": images, "annotations": annotations, "categories": categories}


def read_as_annotated(files: FileImages, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels of an image, uint8 [H, W, 3], turned so that it has the `size` of its annotations.

    Raises UnreadableImage where it has another one.
    """
    pixels = files.read(index)
    if pixels.shape[:2] == size:
        return pixels
    if pixels.shape[1::-1] == size:
        turned = _other_orientation(files).read(index)
        if turned.shape[:2] == size:
            return turned
    shapes = [f"{width} x {height}" for height, width in (pixels.shape[:2], size)]
    raise UnreadableImage(f"the image is {shapes[0]}, its annotations are for {shapes[1]}")


def outside(found: Annotations, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whose box does not touch its image: bool [m]; sizes int64 [n, 2]."""
    low, high = found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]
    sides = np.minimum(high, sizes[found.image][:, ::-1]) - np.maximum(low, 0)
    return np.any(sides <= 0, axis=1)


def tiny(found: Annotations) -> NDArray[np.bool_]:
    """Whose box has a side below a pixel, or whose object has no area: bool [m]."""
    return np.any(found.boxes[:, 2:] < 1, axis=1) | (found.areas <= 0)


def coco_images(content: CocoFile, files: FileImages, origin: str) -> CocoImages:
    """The images of an annotation file, `origin`, that lie in `files`, in the same order.

    Raises DataError where boxes or sizes are those of other images.
    """
    found, sizes = content.annotations, content.sizes
    notes = [*files.notes, *content.notes, *_box_notes(found, sizes, origin)]
    images = CocoImages(
        files=files,
        ids=content.ids,
        sizes=sizes,
        category_ids=content.category_ids,
        categories=content.categories,
        annotations=found,
        has_masks=_masks_of_all(found, origin, notes),
    )
    _check_sizes(images, origin, notes)
    return replace(images, notes=tuple(notes))


def _box_notes(found: Annotations, sizes: NDArray[np.int64], origin: str) -> list[str]:
    """What to say of boxes that cannot be trained on. Raises DataError where they are many."""
    away = outside(found, sizes)
    kinds = ((away, "outside of their image"), (tiny(found) & ~away, "below a pixel"))
    told = ", ".join(f"{which.sum()} {kind}" for which, kind in kinds if which.any())
    bad = sum(int(which.sum()) for which, _ in kinds)
    total = counted(len(found), "box")
    if bad > max(HANDFUL, SHARE * len(found)):
        raise DataError(
            f"{bad} of {total} in {origin} cannot be those of its images",
            why=told,
            fix="boxes are [left, top, width, height] in pixels, and sizes those of the images",
        )
    notes = [f"{told} of {total} in {origin}: not trained on"] if bad else []
    beyond = (found.boxes[:, :2] + found.boxes[:, 2:] > sizes[found.image][:, ::-1] + 1).any(1)
    if beyond.sum() > max(HANDFUL, SHARE * len(found)):
        notes.append(
            f"{beyond.sum()} of {total} in {origin} reach beyond their image: they are read as "
            "[left, top, width, height]"
        )
    return notes


def _masks_of_all(found: Annotations, origin: str, notes: list[str]) -> bool:
    """Whether objects have masks; adds to `notes` where some have none."""
    lacking = int((~found.has_mask()).sum())
    few = lacking <= max(HANDFUL, SHARE * len(found)) and lacking < len(found)
    if 0 < lacking < len(found):
        what = "their boxes serve as masks" if few else "no masks are trained or scored"
        notes.append(f"{lacking} of {len(found)} annotations in {origin} have no mask: {what}")
    return few


def _check_sizes(images: CocoImages, origin: str, notes: list[str]) -> None:
    """Compare sizes in the headers of some images with those annotated.

    Adds to `notes` where few differ, or were annotated in the other orientation. Raises DataError
    where most differ.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, LOOKED_INTO).astype(int)).tolist()
    files, other = images.files, _other_orientation(images.files)
    odd, turned = [], 0
    for i in chosen:
        try:
            if (size := files.size(i)) == images.size(i):
                continue
            if other.size(i) == images.size(i):
                turned += 1
                continue
        except UnreadableImage:
            continue
        (height, width), (h, w) = size, images.size(i)
        odd.append(f"'{images.name(i)}' is {width} x {height}, annotated as {w} x {h}")
    of = counted(len(chosen), "image")
    if len(odd) > len(chosen) / 2:
        raise DataError(
            f"the images in '{images.root}' have other sizes than {origin} says",
            why=f"{odd[0]}, and so have {len(odd)} of {of} looked at",
            fix="name the images that were annotated, as they were then",
        )
    if odd:
        notes.append(f"{len(odd)} of {of} looked at have another size than annotated: {odd[0]}")
    if turned:
        way = "as stored" if files.exif_orientation == "apply" else "upright"
        notes.append(f"{turned} of {of} looked at are read {way}, as they were annotated")


def _other_orientation(files: FileImages) -> FileImages:
    return replace(
        files, exif_orientation="ignore" if files.exif_orientation == "apply" else "apply"
    )
