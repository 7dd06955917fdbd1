"""Libraries that compute COCO's average precision, on equal input.

python -m benchmarks.average_precision [--images 500 5000] [--rounds 3] [--libraries NAME ...]

Each library that is installed reads the same truth and the same detections from files and gives
the 12 figures of boxes and of masks: how far they are from pycocotools', and how long all took.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import machine, spread

REFERENCE = "pycocotools"
EVALUATORS = {
    "pycocotools": ("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    "faster_coco_eval": ("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
    "hotcoco": ("hotcoco:COCO", "hotcoco:COCOeval"),
}
"""Where the classes of each library are."""
SIZE, CATEGORIES = (480, 640), 80
"""Height and width; about COCO's."""
KINDS = ("bbox", "segm")


def random_set(
    num_images: int, seed: int, size: tuple[int, int] = SIZE, categories: int = CATEGORIES
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and detections as COCO's files hold them.

    About 7 objects an image, one in 25 a crowd; category ids with gaps, of which some have no
    object; scores with equal ones; 20 to 120 detections an image, half of them near an object.
    """
    random = np.random.default_rng(seed)
    ids = np.sort(random.choice(np.arange(1, 2 * categories), categories, replace=False)).tolist()
    images, annotations, detections = [], [], []
    for image in range(1, num_images + 1):
        images.append(
            {"id": image, "width": size[1], "height": size[0], "file_name": f"{image:06}.jpg"}
        )
        boxes = _random_boxes(random, int(random.poisson(7)), size)
        labels = random.choice(ids[: categories // 2], len(boxes)).tolist()
        for box, label in zip(boxes, labels, strict=True):
            crowd = bool(random.random() < 0.04)
            polygon = _ellipse(box)
            mask = _uncompressed(box, size) if crowd else [polygon]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]) * (1.0 if crowd else np.pi / 4),
                    "iscrowd": int(crowd),
                    "segmentation": mask,
                }
            )
        count = int(random.integers(20, 121))
        found = _random_boxes(random, count, size)
        near = random.random(count) < 0.5 if len(boxes) else np.zeros(count, bool)
        of = random.integers(0, max(1, len(boxes)), count)
        for i in range(count):
            box, label = found[i], int(random.choice(ids))
            if near[i]:
                moved = boxes[of[i]] + random.normal(0, 0.08, 4) * boxes[of[i]][[2, 3, 2, 3]]
                box, label = np.maximum(moved, [0, 0, 2, 2]), labels[of[i]]
            detections.append(
                {
                    "image_id": image,
                    "category_id": label,
                    "bbox": np.round(box, 2).tolist(),
                    "score": round(float(random.random()) * (1.0 if near[i] else 0.6), 2),
                    "segmentation": _ellipse(box),
                }
            )
    names = [{"id": number, "name": f"category {number}"} for number in ids]
    return {"images": images, "annotations": annotations, "categories": names}, detections


def _random_boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """x, y, width, height: float64 [count, 4], small ones as frequent as large ones."""
    sides = np.exp(random.uniform(np.log(6), np.log(0.8 * min(size)), (count, 2)))
    corner = random.random((count, 2)) * (np.array(size[::-1]) - sides)
    return np.round(np.concatenate([corner, sides], 1), 2)


def _ellipse(box: np.ndarray) -> list[float]:
    """A polygon of 16 corners inside of a box."""
    angle = np.arange(16) * (np.pi / 8)
    around = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.round(box[:2] + (around + 1) / 2 * box[2:], 2).ravel().tolist()


def _uncompressed(box: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """A rectangle as run lengths down the columns."""
    height, width = size
    x, y, w, h = (int(value) for value in box)
    w, h = max(1, w), max(1, h)
    counts = [x * height + y, *[h, height - h] * (w - 1), h]
    return {"size": list(size), "counts": [*counts, height * width - sum(counts)]}


def compressed(detections: list[dict[str, Any]], library: str) -> list[dict[str, Any]]:
    """The detections with their masks as compressed run lengths."""
    masks = importlib.import_module(library).mask if library != REFERENCE else _masks_of_reference()
    made = []
    for one in detections:
        run = masks.frPyObjects([one["segmentation"]], *SIZE)[0]
        counts = run["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        made.append({**one, "segmentation": {"size": list(SIZE), "counts": text}})
    return made


def _masks_of_reference() -> Any:
    return importlib.import_module("pycocotools.mask")


def figures(library: str, truth: str, detections: str, kind: str) -> np.ndarray:
    """The 12 figures of one kind, from files: float64 [12]."""
    names = [place.split(":") for place in EVALUATORS[library]]
    coco, evaluator = (getattr(importlib.import_module(module), name) for module, name in names)
    with contextlib.redirect_stdout(io.StringIO()):
        true = coco(truth)
        load = true.loadRes if hasattr(true, "loadRes") else true.load_res
        evaluation = evaluator(true, load(detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.array(evaluation.stats, np.float64)[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--libraries", nargs="+", default=list(EVALUATORS), choices=EVALUATORS)
    arguments = parser.parse_args()
    libraries = [name for name in arguments.libraries if importlib.util.find_spec(name)]
    print(f"{machine()}; installed: {', '.join(libraries)}")
    for count in arguments.images:
        truth, detections = random_set(count, seed=count)
        detections = compressed(detections, libraries[0])
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / name) for name in ("truth.json", "detections.json")]
            for file, content in zip(files, (truth, detections), strict=True):
                Path(file).write_text(json.dumps(content))
            for kind in KINDS:
                compare(libraries, files, kind, arguments.rounds, f"{count} images, {kind}")


def compare(libraries: list[str], files: list[str], kind: str, rounds: int, title: str) -> None:
    """Print a line for each library: seconds of every round, and the largest difference."""
    found: dict[str, np.ndarray] = {}
    wall: dict[str, list[float]] = {name: [] for name in libraries}
    work: dict[str, list[float]] = {name: [] for name in libraries}
    for turn in range(rounds):
        for name in libraries[turn % len(libraries) :] + libraries[: turn % len(libraries)]:
            began, worked = time.perf_counter(), time.process_time()
            found[name] = figures(name, files[0], files[1], kind)
            wall[name].append(time.perf_counter() - began)
            work[name].append(time.process_time() - worked)
    for name in libraries:
        apart = ""
        if REFERENCE in found:
            largest = np.abs(found[name] - found[REFERENCE]).max()
            apart = f", from {REFERENCE} {largest:.1e} at most"
        print(
            f"{title}: {name} {statistics.median(wall[name]):.2f} s (spread "
            f"{100 * spread(wall[name]):.0f} %), of processors "
            f"{statistics.median(work[name]):.2f} s; AP {100 * found[name][0]:.4f}{apart}"
        )


if __name__ == "__main__":
    main()
