"""Label maps that a network found, as files: index PNGs in the coding of the set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.annotated.label_coding import Coding
from ibot.data.annotated.label_maps import LabelMaps

ABOUT = "predictions.json"
"""Beside the maps: which images, maps and classes they belong to."""


def write_prediction(folder: Path, maps: LabelMaps, index: int, found: NDArray[np.int64]) -> Path:
    """Write the classes [H, W] of an image as values of the set, under the image's name.

    8 bits with the colours of the classes, 16 bits where there are more.
    """
    file = folder / Path(maps.name(index)).with_suffix(".png")
    file.parent.mkdir(parents=True, exist_ok=True)
    values = maps.coding.values()
    stored = values[found]
    if values[-1] > 255:
        Image.fromarray(stored.astype(np.uint16)).save(file)
        return file
    picture = Image.fromarray(stored.astype(np.uint8), mode="P")
    picture.putpalette(value_palette(maps.coding).tobytes())
    picture.save(file)
    return file


def value_palette(coding: Coding) -> NDArray[np.uint8]:
    """RGB of each stored value of 8 bits, uint8 [256, 3]; black where it is of no class."""
    palette = np.zeros((256, 3), np.uint8)
    palette[coding.values()] = coding.palette()
    return palette


def write_about(folder: Path, maps: LabelMaps) -> None:
    """Write which images the predictions in `folder` belong to, and how the maps are read."""
    images = [
        {
            "image": str(maps.images.path(i).absolute()),
            "labels": str(maps.maps.path(i).absolute()),
            "found": str(Path(maps.name(i)).with_suffix(".png")),
        }
        for i in range(len(maps))
    ]
    about = {
        "coding": asdict(maps.coding),
        "exif_orientation": maps.images.exif_orientation,
        "max_pixels": maps.images.max_pixels,
        "images": images,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).write_text(json.dumps(about))
