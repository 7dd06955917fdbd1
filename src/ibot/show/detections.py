"""Boxes and masks on images: what a detector found beside what was annotated."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ibot.data.annotated.bitmaps import bitmap
from ibot.data.annotated.coco import read_as_annotated
from ibot.data.decode import UnreadableImage
from ibot.data.sets.files import file_images
from ibot.eval.dense.detection.evaluator import SHOWN
from ibot.show.colours import distinct_color
from ibot.show.layout import Panel, row
from ibot.types import ResultRecord

LEAST_SCORE = 0.3
"""Of detections that are drawn."""
LONG = 960
"""Pixels of the longer side of a drawn image: small ones are enlarged."""
LETTER, LINE = 15, 2
"""Pixels of letters and of a box's line."""
COVER = 0.45
"""Share of the colour where a mask lies."""
CROWD = (150, 150, 150)
_INK, _PAPER = (31, 36, 48), (255, 255, 255)


class Drawn(NamedTuple):
    """An object as it is drawn."""

    box: Sequence[float]
    """Left, top, right, bottom in pixels of the image."""
    words: str
    color: tuple[int, int, int]
    mask: NDArray[np.uint8] | None
    """uint8 [H, W]."""


def draw(records: Sequence[ResultRecord], out: Path) -> list[Path]:
    """Pictures of the images that an evaluation kept to be shown: found left, annotated right.

    They lie beside the files that its records name, not in `out`.
    """
    named = [Path(file).parent for record in records for file in record.extra.get("files", ())]
    return [file for folder in dict.fromkeys(named) for file in _draw(folder)]


def _draw(results: Path) -> list[Path]:
    """Those of one folder of results; images that can no longer be read are passed over."""
    kept = json.loads((results / SHOWN).read_text())
    truth = kept["truth"]
    names = [image["file_name"] for image in truth["images"]]
    files = replace(
        file_images(Path(kept["root"]), names),
        exif_orientation=kept["exif_orientation"],
        max_pixels=kept["max_pixels"],
    )
    classes = {one["id"]: (i, one["name"]) for i, one in enumerate(truth["categories"])}
    folder = results / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for i, about in enumerate(truth["images"]):
        size = about["height"], about["width"]
        try:
            image = read_as_annotated(files, i, size)
        except UnreadableImage:
            continue
        found = [one for one in kept["found"] if one["image_id"] == about["id"]]
        found = [one for one in found if one["score"] >= LEAST_SCORE]
        true = [one for one in truth["annotations"] if one["image_id"] == about["id"]]
        words = f"found, score {LEAST_SCORE} and above: {len(found)}", f"annotated: {len(true)}"
        pictures = (objects_on(image, _drawn(all_, classes, size)) for all_ in (found, true))
        picture = row(list(map(Panel, words, pictures))).pixels()
        stem = re.sub(r"[^\w.-]", "_", Path(about["file_name"]).stem)[:80]
        written.append(folder / f"{i:02}_{stem}.jpg")
        Image.fromarray(picture).save(written[-1], quality=92, subsampling=0)
    return written


def _drawn(
    entries: list[dict[str, Any]], classes: dict[int, tuple[int, str]], size: tuple[int, int]
) -> list[Drawn]:
    """Annotations or results in COCO's format; crowds first and likely ones last, above others."""
    order = sorted(entries, key=lambda one: (not one.get("iscrowd"), one.get("score", 1.0)))
    drawn = []
    for one in order:
        label, name = classes[one["category_id"]]
        crowd = bool(one.get("iscrowd"))
        words = f"{name} (crowd)" if crowd else name
        if "score" in one:
            words += f" {one['score']:.2f}"
        x, y, w, h = one["bbox"]
        mask = bitmap(one["segmentation"], size) if "segmentation" in one else None
        color = CROWD if crowd else distinct_color(label)
        drawn.append(Drawn((x, y, x + w, y + h), words, color, mask))
    return drawn


def objects_on(image: NDArray[np.uint8], objects: Sequence[Drawn]) -> NDArray[np.uint8]:
    """The image [H, W, 3] with boxes, names and masks: uint8 [h, w, 3], longer side `LONG`.

    Lines and letters have the same size on every image.
    """
    height, width = image.shape[:2]
    scale = LONG / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    for one in objects:
        if one.mask is not None:
            _cover(picture, one.mask, one.color, scale)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTER)
    for one in objects:
        box = [value * scale for value in one.box]
        pen.rectangle([*np.minimum(box[:2], box[2:]), *box[2:]], outline=one.color, width=LINE)
        _name(pen, one, box, size, font)
    return np.asarray(picture)


def _cover(
    picture: Image.Image, mask: NDArray[np.uint8], color: tuple[int, int, int], scale: float
) -> None:
    """Lay a colour where the mask is; only its surroundings are looked at."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    part = mask[top : rows[-1] + 2, left : columns[-1] + 2] > 0
    size = [max(1, round(side * scale)) for side in part.shape[::-1]]
    cover = Image.fromarray(part.astype(np.uint8) * round(255 * COVER))
    cover = cover.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    picture.paste(color, (round(left * scale), round(top * scale)), cover)


def _name(
    pen: ImageDraw.ImageDraw, one: Drawn, box: list[float], size: tuple[int, int], font: Any
) -> None:
    """The words on their colour, above the box where there is room, always inside of the image."""
    left, top, right, bottom = pen.textbbox((0, 0), one.words, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = max(0.0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else min(max(0.0, box[1]), size[1] - height)
    pen.rectangle([x, y, x + width, y + height], fill=one.color)
    light = 0.3 * one.color[0] + 0.59 * one.color[1] + 0.11 * one.color[2] > 140
    pen.text((x + 3 - left, y + 3 - top), one.words, fill=_INK if light else _PAPER, font=font)
