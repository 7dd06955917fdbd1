"""One annotation file in COCO's format: read, checked, and kept small.

A file of another kind is refused. Of the right kind, single annotations that cannot be used are
left out and counted; where they are many, the file does not belong to these images.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.annotated.bitmaps import run_lengths, segmentation_area
from ibot.errors import DataError, printable
from ibot.words import counted

HANDFUL = 3
SHARE = 0.1
"""More annotations that cannot be used than both refuse the file."""
_LISTS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id",),
}
"""What the file must hold, and what each entry must have."""
_FIX = "name a file of instances in COCO's format, such as instances_train2017.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """Objects of many images, sorted by image, in arrays: dictionaries would take ten times as much
    memory, and be copied in each loader process.
    """

    image: NDArray[np.int64]
    """int64 [m], number of the image."""
    boxes: NDArray[np.float64]
    """float64 [m, 4], left, top, width, height in pixels, as in the file."""
    areas: NDArray[np.float64]
    """float64 [m], pixels of the object."""
    labels: NDArray[np.int64]
    """int64 [m], index into the sorted category ids."""
    crowd: NDArray[np.bool_]
    """bool [m], a region with many objects."""
    ignored: NDArray[np.bool_]
    """bool [m], said by the file to be left out of training."""
    masks: bytes
    """What the file has as segmentation, as JSON, one after the other."""
    ends: NDArray[np.int64]
    """int64 [m], where each ends in `masks`; empty: it has none."""

    def __len__(self) -> int:
        return len(self.image)

    def segmentation(self, row: int) -> Any:
        """Polygons or run lengths; None where there are none."""
        text = self.masks[self.ends[row - 1] if row else 0 : self.ends[row]]
        return json.loads(text) if text else None

    def has_mask(self) -> NDArray[np.bool_]:
        """Which have a segmentation: bool [m]."""
        return np.diff(self.ends, prepend=0) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoFile:
    """What a file holds."""

    names: list[str]
    """Of the images, as in the file."""
    ids: NDArray[np.int64]
    """int64 [n], of the images."""
    sizes: NDArray[np.int64]
    """int64 [n, 2], height and width in pixels."""
    category_ids: tuple[int, ...]
    """Ascending; a label is the place in here."""
    categories: tuple[str, ...]
    """Their names."""
    annotations: Annotations
    notes: tuple[str, ...]


def read_coco_file(file: Path) -> CocoFile:
    """Read a file of instances.

    Raises DataError: it cannot be read, is none, repeats ids, or most annotations are unusable.
    """
    content = _content(file)
    images, categories = content["images"], content["categories"]
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int64)
    ids = np.array([image["id"] for image in images], np.int64)
    category_ids = sorted(category["id"] for category in categories)
    names = {one["id"]: printable(str(one.get("name", one["id"]))) for one in categories}
    problems = _Problems()
    rows = _rows(content["annotations"], ids, sizes, category_ids, problems)
    total = len(content["annotations"])
    problems.refuse(file, total)
    if not rows:
        raise DataError(
            f"'{file}' holds no annotations that can be used",
            why="; ".join(problems.notes(file, total)) or "its list 'annotations' is empty",
            fix="name the file that holds the boxes, or correct it",
        )
    twice = total - len({annotation["id"] for annotation in content["annotations"]})
    repeated = [f"{counted(twice, 'annotation')} of '{file.name}' repeat an id: all are read"]
    return CocoFile(
        names=[str(image["file_name"]) for image in images],
        ids=ids,
        sizes=sizes,
        category_ids=tuple(category_ids),
        categories=tuple(names[number] for number in category_ids),
        annotations=_packed(rows),
        notes=(*problems.notes(file, total), *(repeated if twice else ())),
    )


def _content(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The file, with all entries that are needed. Raises DataError."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(
            f"'{file}' cannot be read", why=error.strerror or "", fix="check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{file}' is not JSON", why=str(error), fix=_FIX) from None
    if isinstance(content, list):
        why = "it is a list, as of detections"
        raise DataError(f"'{file}' holds no annotations of images", why=why, fix=_FIX)
    absent = [k for k in _LISTS if not (isinstance(content, dict) and _entries(content.get(k)))]
    if absent:
        why = f"it has no list '{absent[0]}'"
        raise DataError(f"'{file}' is not in COCO's format", why=why, fix=_FIX)
    for name, needed in _LISTS.items():
        for number, entry in enumerate(content[name]):
            if lacking := [key for key in needed if key not in entry]:
                why = f"entry {number} of '{name}' has no '{lacking[0]}'"
                raise DataError(f"'{file}' is not in COCO's format", why=why, fix=_FIX)
    for number, entry in enumerate(content["annotations"]):
        for key in _LISTS["annotations"][:3]:
            if not isinstance(entry[key], int | str):
                why = f"entry {number} of 'annotations' has the {key} {entry[key]!r}"
                raise DataError(f"'{file}' is not in COCO's format", why=why, fix=_FIX)
    for name in ("images", "categories"):
        _require_ids(file, name, [entry["id"] for entry in content[name]])
    for image in content["images"]:
        if not all(isinstance(image[key], int) and image[key] > 0 for key in ("height", "width")):
            raise DataError(
                f"'{file}' gives the image '{printable(str(image['file_name']))}' no size",
                why=f"height {image['height']!r}, width {image['width']!r}",
                fix="write both in pixels",
            )
    return content


def _entries(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _require_ids(file: Path, name: str, ids: Sequence[Any]) -> None:
    """Raise DataError where the ids of images or categories are no numbers or repeated."""
    if not ids:
        raise DataError(f"'{file}' names no {name}", fix=_FIX)
    if odd := [number for number in ids if not isinstance(number, int)]:
        why = f"{odd[0]!r} among the {name}"
        raise DataError(f"ids in '{file}' are no whole numbers", why=why, fix="number them")
    number, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"'{file}' has the id {number} {times} times among the {name}",
            why="it cannot be told whose annotations are meant",
            fix="give each its own id, as after joining files",
        )


@dataclass(slots=True)
class _Problems:
    """What was left out, by kind, with one example each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, example)

    def refuse(self, file: Path, total: int) -> None:
        """Raise DataError where too many were left out."""
        bad = self.counts.total()
        if bad > max(HANDFUL, SHARE * total):
            kind, _ = self.counts.most_common(1)[0]
            raise DataError(
                f"{bad} of {counted(total, 'annotation')} in '{file}' cannot be used",
                why=f"{self._told()}; the first {self.examples[kind]}",
                fix="name the file that belongs to these images, or correct it",
            )

    def notes(self, file: Path, total: int) -> list[str]:
        """A sentence, if anything was left out."""
        if not self.counts:
            return []
        first = next(iter(self.examples.values()))
        bad = self.counts.total()
        return [
            f"{bad} of {counted(total, 'annotation')} in '{file.name}' left out: {self._told()}; "
            f"the first {first}"
        ]

    def _told(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())


@dataclass(frozen=True, slots=True)
class _Row:
    image: int
    label: int
    box: list[float]
    area: float
    crowd: bool
    ignored: bool
    mask: bytes


def _rows(
    annotations: list[dict[str, Any]],
    ids: NDArray[np.int64],
    sizes: NDArray[np.int64],
    category_ids: list[int],
    problems: _Problems,
) -> list[_Row]:
    """Annotations that can be used."""
    image_of = {number: i for i, number in enumerate(ids.tolist())}
    label_of = {number: i for i, number in enumerate(category_ids)}
    rows, shapes = [], [tuple(size) for size in sizes.tolist()]
    for annotation in annotations:
        image = image_of.get(annotation["image_id"])
        label = label_of.get(annotation["category_id"])
        box = _numbers(annotation["bbox"])
        try:
            if image is None:
                raise ValueError(f"of unknown images (image_id {annotation['image_id']!r})")
            if label is None:
                raise ValueError(
                    f"of unknown categories (category_id {annotation['category_id']!r})"
                )
            if len(box) != 4:
                raise ValueError("without four numbers as their box")
            segmentation = _segmentation(annotation.get("segmentation"), shapes[image])
            area = annotation.get("area")
            if not isinstance(area, int | float) or not math.isfinite(area):
                area = segmentation_area(segmentation) if segmentation else box[2] * box[3]
        except ValueError as error:
            kind, _, detail = str(error).partition(" (")
            problems.add(kind, f"has id {annotation['id']}" + (f" ({detail}" if detail else ""))
            continue
        mask = json.dumps(segmentation, separators=(",", ":")).encode() if segmentation else b""
        flags = bool(annotation.get("iscrowd")), bool(annotation.get("ignore"))
        rows.append(_Row(image, label, box, float(area), *flags, mask))
    return rows


def _numbers(values: Any) -> list[float]:
    """Finite numbers; none where they are something else."""
    try:
        numbers = np.asarray(values, np.float64)
    except (ValueError, TypeError):
        return []
    return numbers.tolist() if numbers.ndim == 1 and np.isfinite(numbers).all() else []


def _segmentation(found: Any, size: tuple[int, ...]) -> Any:
    """Polygons or run lengths that can be drawn; None of none. Raises ValueError.

    Of several polygons those without an area are left out.
    """
    if not found:
        return None
    if isinstance(found, dict):
        if found.get("size") != list(size):
            raise ValueError(
                "whose mask has another size than the image "
                f"({_shape(found.get('size'))}, not {_shape(list(size))})"
            )
        try:
            runs = run_lengths(found["counts"])
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ValueError("whose run lengths cannot be read") from None
        if (runs < 0).any() or runs.sum() != size[0] * size[1]:
            raise ValueError(
                f"whose run lengths do not fill the image (they cover {runs.sum()} pixels)"
            )
        return {"size": list(size), "counts": found["counts"]}
    # One polygon may stand without a list round it.
    polygons = found if isinstance(found, list) and isinstance(found[0], list) else [found]
    drawn = [numbers for numbers in map(_numbers, polygons) if _is_polygon(numbers)]
    if not drawn:
        raise ValueError("whose polygons have fewer than three points")
    return drawn


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) if isinstance(size, list) else repr(size)


def _is_polygon(numbers: list[float]) -> bool:
    return len(numbers) >= 6 and len(numbers) % 2 == 0


def _packed(rows: list[_Row]) -> Annotations:
    rows = sorted(rows, key=lambda row: row.image)  # stable: the file's order within an image
    return Annotations(
        image=np.array([row.image for row in rows], np.int64),
        boxes=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
        areas=np.array([row.area for row in rows], np.float64),
        labels=np.array([row.label for row in rows], np.int64),
        crowd=np.array([row.crowd for row in rows], bool),
        ignored=np.array([row.ignored for row in rows], bool),
        masks=b"".join(row.mask for row in rows),
        ends=np.cumsum([len(row.mask) for row in rows], dtype=np.int64),
    )
