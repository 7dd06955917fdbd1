"""What a run's network makes of a few images: attention and colours of patches, for its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.config.schema import Config
from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import Images
from ibot.data.sets.open import find_labelled, open_images
from ibot.data.sets.trimmed import trimmed
from ibot.errors import DataError
from ibot.eval.features.views import evenly
from ibot.report.html import jpeg
from ibot.report.pictures import Shown
from ibot.show.attention import WORDS, attention_of
from ibot.show.features import features_of
from ibot.show.inputs import SHORT, WholeView
from ibot.show.layout import enlarged
from ibot.weights.read import load_backbone
from ibot.words import counted

SIDE = 224
"""Longer side of each picture in the page, in pixels."""
TIMES = 4
"""The shorter side of a view over that of the training, at most: networks that were trained on few
patches see nothing in many."""
COLUMNS = ("image", "attention by head", "mean attention", "patches as colours")


@dataclass(frozen=True, slots=True)
class Seen:
    """A few images as the network sees them."""

    rows: Sequence[tuple[str, Sequence[Shown]]]
    """Name of each image and its pictures, by `COLUMNS`."""
    words: str
    """What they are of, and how they were made."""


def seen_by(run: Path, config: Config, count: int) -> Seen:
    """Attention and colours of `count` evenly spaced validation images, by the newest checkpoint.

    Raises UserError, OSError and ValueError where there are no weights, images, attention, or
    packages.
    """
    backbone = load_backbone(run)
    images, part = _images(config)
    names, pixels = [], []
    for number in evenly(len(images), count).tolist():
        try:
            pixels.append(images.read(number))
        except UnreadableImage:
            continue
        names.append(images.name(number))
    if not pixels:
        raise DataError(f"none of the images in '{images.root}' can be read")
    view = WholeView(min(SHORT, TIMES * min(config.augment.global_size)))
    colours, fitted = features_of(backbone, pixels, view, foreground=False)
    rows, words = [], ""
    for name, image, colour in zip(names, pixels, colours, strict=True):
        found = attention_of(backbone, image, view)
        words = WORDS[found.source]
        shown = (
            found.view,
            found.overlay(),
            found.coloured(None),
            np.rint(255 * colour).astype(np.uint8),
        )
        size = found.view.shape[:2]
        titles = [f"{name}: {column}" for column in COLUMNS]
        rows.append((name, [_shown(*one, size) for one in zip(titles, shown, strict=True)]))
    return Seen(
        rows,
        f"{counted(len(rows), f'{part} image')}, evenly spaced, shorter side {view.short} pixels. "
        f"{words.capitalize()}: each head in a colour of its own, and the mean of the heads. Patch "
        f"tokens by principal components over these images: {'; '.join(fitted.steps)}.",
    )


def _images(config: Config) -> tuple[Images, str]:
    """Validation images where there are some, else those of the training; and which they are."""
    data = config.data
    orientation, most = data.exif_orientation, data.max_pixels
    reading = data.reading.of(config.model.channels, config.model.mean)
    try:
        found = find_labelled(
            data.path,
            data.val_path,
            exif_orientation=orientation,
            max_pixels=most,
            channels=reading,
            windows=data.windowing,
        )
    except DataError:
        found = None
    if found is not None:
        return trimmed(found[1], data.trim_border), "validation"
    images = open_images(
        data.path,
        exif_orientation=orientation,
        max_pixels=most,
        channels=reading,
        windows=replace(data.windowing, at="grid"),
    )
    return trimmed(images, data.trim_border), "training"


def _shown(title: str, picture: NDArray[np.uint8], size: tuple[int, int]) -> Shown:
    """A picture of the view's size [H, W], as JPEG with SIDE pixels."""
    small = Image.fromarray(enlarged(picture, *size))
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Shown(title, jpeg(small, 85), small.size)
