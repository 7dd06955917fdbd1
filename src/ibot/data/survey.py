"""What kind of images a folder holds, from a sample: the facts by which settings can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ibot.data.decode import UnreadableImage
from ibot.data.false_colours import as_rgb
from ibot.data.sets.images import Images
from ibot.errors import DataError
from ibot.spectrum import effective_rank

SAMPLE = 200
THUMBNAIL = 8
COLOUR_SPREAD = 6.0
"""Mean spread between the channels, in levels of 255, below which an image counts as gray."""
SAME_ENERGY = 1e-12
"""Sum of squared deviations, in levels of 255, below which all thumbnails are the same."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Facts about a set of images."""

    images: int
    side: int
    """Median of the shorter side in pixels."""
    smallest: int
    """Shortest side met."""
    gray: float
    """Share of images without colour."""
    variety: float
    """Effective number of independent directions among thumbnails of 64 gray levels: near 1 when
    all look alike."""
    repeated: float
    """Share of images whose thumbnail has a twin in the sample."""
    unreadable: float


def survey(source: Images, sample: int = SAMPLE) -> Survey:
    """Look at `sample` evenly spaced images. Raises DataError when none can be read."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).astype(int))
    sides, gray, thumbnails, bad = [], [], [], []
    for index in chosen:
        try:
            image = source.read(int(index))
        except UnreadableImage as error:
            bad.append(f"'{source.name(int(index))}': {error}")
            continue
        sides.append(min(image.shape[:2]))
        # Of other channels than colours the thresholds below would mean nothing: false colours.
        small = Image.fromarray(as_rgb(image)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        pixels = np.asarray(small, dtype=np.float32)
        gray.append(float((pixels.max(-1) - pixels.min(-1)).mean()) < COLOUR_SPREAD)
        thumbnails.append(pixels.mean(-1).flatten())
    if not sides:
        raise DataError(
            f"none of {len(chosen)} sampled images under '{source.root}' can be read",
            why=f"the first, {bad[0]}",
            fix="look at the files, or name another folder",
        )
    table = np.stack(thumbnails)
    return Survey(
        images=len(source),
        side=int(np.median(sides)),
        smallest=min(sides),
        gray=float(np.mean(gray)),
        variety=_directions(table),
        repeated=_repeated(table),
        unreadable=len(bad) / len(chosen),
    )


def _directions(table: np.ndarray) -> float:
    """Effective rank of the centred rows; 1 where they differ by rounding alone."""
    energy = np.linalg.svd(table - table.mean(0), compute_uv=False).astype(np.float64) ** 2
    return effective_rank(energy) if energy.sum() > SAME_ENERGY else 1.0


def _repeated(table: np.ndarray) -> float:
    """Share of rows that agree with another to two levels everywhere."""
    if len(table) < 2:
        return 0.0
    distance = np.abs(table[:, None] - table[None]).max(-1)
    np.fill_diagonal(distance, np.inf)
    return float((distance.min(1) <= 2).mean())
