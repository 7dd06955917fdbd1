"""How good detections are: COCO's average precision of boxes and of masks (8.9.5).

The figures are the library's, which gives those of COCO's own code in a tenth of the time
(`benchmarks/average_precision.py`). Detections stay on disk in COCO's format of results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ibot.data.annotated.bitmaps import encoded, library
from ibot.data.annotated.coco import CocoImages
from ibot.errors import DataError
from ibot.eval.dense.detection.target import Detections
from ibot.eval.features.views import evenly
from ibot.system.distributed import gather
from ibot.system.files import write_atomically
from ibot.system.processes import Processes

Kind = Literal["bbox", "segm"]
"""COCO's words for boxes and masks."""
FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""In COCO's order. Small: below 32 x 32 pixels; large: above 96 x 96."""
FILES: dict[Kind, str] = {"bbox": "boxes.json", "segm": "masks.json"}
"""Names of the files of results."""
SHOWN = "shown.json"
"""Some images with what is in them and what was found, for pictures."""
MOST_SHOWN = 12


class Precision(NamedTuple):
    """Figures of boxes or of masks, in per cent; None where there is no such object."""

    figures: dict[str, float | None]
    """By the names of `FIGURES`."""
    by_class: dict[str, float | None]
    """AP of each class."""


@dataclass(slots=True)
class FoundObjects:
    """Detections of images as they come, kept as COCO's format has them."""

    images: CocoImages
    masks: bool
    """Whether masks are scored."""
    read: set[int] = field(default_factory=set)
    """Numbers of the images that were looked at."""
    results: dict[Kind, list[dict[str, Any]]] = field(
        default_factory=lambda: {"bbox": [], "segm": []}
    )

    def add(self, index: int, found: Detections) -> None:
        """What was found in an image, at the size that it has."""
        self.read.add(index)
        about = [
            {
                "image_id": int(self.images.ids[index]),
                "category_id": self.images.category_ids[label],
                "score": round(score, 5),
            }
            for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        ]
        corners = found.boxes.double().cpu().numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).round(3)
        self.results["bbox"] += [
            {**one, "bbox": box} for one, box in zip(about, boxes.tolist(), strict=True)
        ]
        if self.masks and found.masks is not None:
            # Without boxes: libraries would take their area for that of the masks.
            runs = encoded(found.masks.cpu().numpy())
            self.results["segm"] += [
                {**one, "segmentation": mask} for one, mask in zip(about, runs, strict=True)
            ]

    def joined(self) -> FoundObjects:
        """With what the other processes found, in the order of the images; the same in all."""
        everyone = gather((self.read, self.results))
        place = {number: i for i, number in enumerate(self.images.ids.tolist())}
        joined = FoundObjects(self.images, self.masks)
        joined.read.update(*(read for read, _ in everyone))
        for kind, all_results in joined.results.items():
            all_results.extend(chain.from_iterable(results[kind] for _, results in everyone))
            all_results.sort(key=lambda one: place[one["image_id"]])
        return joined

    def precision(self, processes: Processes) -> dict[Kind, Precision]:
        """Of boxes, and of masks where they are scored, over the images that were looked at.

        One process computes them. Raises DataError where none could be looked at, MissingExtra.
        """
        if not self.read:
            raise DataError(
                f"none of the {len(self.images)} validation images can be read",
                fix="look at the files",
            )
        kinds: tuple[Kind, ...] = ("bbox", "segm") if self.masks else ("bbox",)
        seen = self.images
        if len(self.read) < len(seen):
            seen = seen.subset(sorted(self.read))
        own: dict[Kind, Precision] = {}
        if processes.is_main:
            own = {kind: average_precision(seen, self.results[kind], kind) for kind in kinds}
        return gather(own)[0]

    def write(self, folder: Path) -> list[Path]:
        """The files of results, and some images for pictures; returns the former."""
        files = []
        for kind, name in FILES.items():
            if kind == "bbox" or self.masks:
                files.append(folder / name)
                _write(folder / name, self.results[kind])
        _write(folder / SHOWN, self._shown())
        return files

    def _shown(self) -> dict[str, Any]:
        """Some of the images that were looked at, evenly spaced."""
        numbers = sorted(self.read)
        few = [numbers[i] for i in evenly(len(numbers), min(MOST_SHOWN, len(numbers)))]
        images = self.images.subset(few)
        kind: Kind = "segm" if self.masks else "bbox"
        ids = set(images.ids.tolist())
        found = [one for one in self.results["bbox"] if one["image_id"] in ids]
        if kind == "segm":
            masks = [one for one in self.results["segm"] if one["image_id"] in ids]
            found = [{**box, **mask} for box, mask in zip(found, masks, strict=True)]
        files = images.files
        return {
            "root": str(images.root),
            "exif_orientation": files.exif_orientation,
            "max_pixels": files.max_pixels,
            "truth": images.truth(),
            "found": found,
        }


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"))
    write_atomically(file, lambda path: path.write_text(text))


def average_precision(images: CocoImages, results: list[dict[str, Any]], kind: Kind) -> Precision:
    """Figures of results in COCO's format, over all annotations of the images.

    Raises MissingExtra.
    """
    coco = library()
    true = coco.COCO(images.truth())
    # The library notes in the entries what it finds.
    found = true.loadRes([dict(one) for one in results])
    evaluation = coco.COCOeval_faster(true, found, kind)
    evaluation.run()
    figures = zip(FIGURES, list(evaluation.stats)[: len(FIGURES)], strict=True)
    # [thresholds, recalls, classes, areas, most detections]
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    means = [float(one[one > -1].mean()) if (one > -1).any() else -1.0 for one in precision.T]
    by_class = zip(images.categories, means, strict=True)
    return Precision(
        {name: _per_cent(value) for name, value in figures},
        {name: _per_cent(value) for name, value in by_class},
    )


def _per_cent(value: float) -> float | None:
    """None for -1, which stands for no object."""
    return 100 * float(value) if value > -1 else None
