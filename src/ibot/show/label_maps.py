"""Label maps beside the truth: image, true classes, found classes, and which colour is which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ibot.data.annotated.label_coding import IGNORED, Coding, stored_values
from ibot.data.decode import UnreadableImage, decode

if TYPE_CHECKING:
    from ibot.types import ResultRecord

DRAWN = 8
"""Images of an evaluation, evenly spaced."""
HEIGHT = 256
"""Pixels of the images in a picture."""
GAP, LINE, SWATCH = 8, 20, 14
LEFT_OUT = (255, 255, 255)
"""Colour of pixels that are left out of the score."""


def draw(records: Sequence[ResultRecord], out: Path) -> list[Path]:
    """Pictures of the label maps that an evaluation left; `out`: for places that are relative.

    They lie beside the folder of the maps, which the records name.
    """
    folders = dict.fromkeys(str(record.extra.get("predictions", "")) for record in records)
    written = []
    for name in filter(None, folders):
        about_file = Path(name) / "predictions.json"
        if about_file.is_file():
            about = json.loads(about_file.read_text())
            written += _draw_folder(Path(name), about)
    return written


def label_picture(
    image: NDArray[np.uint8],
    truth: NDArray[np.int16],
    found: NDArray[np.int16],
    coding: Coding,
) -> NDArray[np.uint8]:
    """One row: the image, the true and the found classes, and below them a legend.

    Args:
        image: uint8 [H, W, 3].
        truth: int16 [H, W], `IGNORED` where pixels are left out: white.
        found: int16 [H, W].
        coding: names and colours of the classes; those that occur stand in the legend, and what
            is left out where there are such pixels.

    Returns:
        RGB uint8 [h, w, 3], the images `HEIGHT` pixels high.
    """
    palette = coding.palette()
    width = max(1, round(image.shape[1] * HEIGHT / image.shape[0]))
    pictures = [image, coloured(truth, palette), coloured(found, palette)]
    ways = Image.Resampling.LANCZOS, Image.Resampling.NEAREST, Image.Resampling.NEAREST
    used = [n for n in np.union1d(truth, found).tolist() if n != IGNORED]
    legend = [(coding.classes[n], tuple(palette[n].tolist())) for n in used]
    legend += [("left out", LEFT_OUT)] if (truth == IGNORED).any() else []
    total = 3 * width + 4 * GAP
    columns = max(1, (total - GAP) // 160)
    lines = -(-len(legend) // columns)
    sheet = Image.new("RGB", (total, HEIGHT + 3 * GAP + LINE * (lines + 1)), (245, 245, 245))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (title, picture, way) in enumerate(
        zip(("image", "truth", "found"), pictures, ways, strict=True)
    ):
        left = GAP + i * (width + GAP)
        pen.text((left, GAP), title, (0, 0, 0), font)
        sheet.paste(Image.fromarray(picture).resize((width, HEIGHT), way), (left, GAP + LINE))
    for i, (name, colour) in enumerate(legend):
        left, top = GAP + i % columns * 160, HEIGHT + 2 * GAP + LINE * (1 + i // columns)
        pen.rectangle((left, top, left + SWATCH, top + SWATCH), colour, (120, 120, 120))
        pen.text((left + SWATCH + 5, top - 1), name[:18], (0, 0, 0), font)
    return np.asarray(sheet)


def coloured(labels: NDArray[np.int16], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Classes [H, W] in their colours [C, 3], white where they are left out: uint8 [H, W, 3]."""
    picture = palette[np.maximum(labels, 0)]
    picture[labels == IGNORED] = LEFT_OUT
    return picture


def _draw_folder(folder: Path, about: dict[str, Any]) -> list[Path]:
    given = about["coding"]
    lists = {key: tuple(map(_as_tuple, value)) for key, value in given.items() if _is_list(value)}
    coding = Coding(**{**given, **lists})
    images, written = about["images"], []
    for number in np.linspace(0, len(images) - 1, min(DRAWN, len(images))).astype(int).tolist():
        entry = images[number]
        how = about["exif_orientation"], about["max_pixels"]
        try:
            image = decode(entry["image"], *how)
            truth, found = (
                coding.decoded(stored_values(path, coding.colours, how[1]), str(path))
                for path in (Path(entry["labels"]), folder / entry["found"])
            )
        except UnreadableImage:
            continue
        file = folder.parent / "pictures" / entry["found"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label_picture(image, truth, found, coding)).save(file)
        written.append(file)
    return written


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
