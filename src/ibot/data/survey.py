"""What kind of images a folder holds, from a sample: the facts by which settings can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ibot.data.borders import without_border
from ibot.data.channels.needed import fix_of
from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import Images
from ibot.data.upright import ENOUGH, NO_UP, layout, lying, reduced, upside_down
from ibot.errors import DataError
from ibot.spectrum import effective_rank

SAMPLE = 200
THUMBNAIL = 8
COLOUR_SPREAD = 6.0
"""Mean spread between the channels, in levels of 255, below which an image counts as gray."""
BORDER = 0.02
"""Share of the area from which on a border counts."""
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
    looked_at: int
    """Images that were read for it."""
    bordered: float
    """Share of images with a border of one colour."""
    upside_down: float
    """How far the average layout changes when images are turned over; 1 is chance."""
    lying: float
    """The same of a turn by a quarter."""

    @property
    def no_up(self) -> bool:
        """Whether images turned over look no other than the rest; False where too few were seen."""
        return self.looked_at >= ENOUGH and self.upside_down < NO_UP

    @property
    def no_side(self) -> bool:
        """Whether those turned by a quarter do not either."""
        return self.no_up and self.lying < NO_UP


def survey(source: Images, sample: int = SAMPLE) -> Survey:
    """Look at `sample` evenly spaced images. Raises DataError when none can be read."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).astype(int))
    sides, gray, thumbnails, layouts, bordered, bad = [], [], [], [], [], []
    for index in chosen:
        try:
            image = source.read(int(index))
        except UnreadableImage as error:
            bad.append(f"'{source.name(int(index))}': {error}")
            continue
        sides.append(min(image.shape[:2]))
        pixels = reduced(image, THUMBNAIL)
        spread = float((pixels.max(-1) - pixels.min(-1)).mean())
        gray.append(image.dtype == np.uint8 and spread < COLOUR_SPREAD)
        thumbnails.append(pixels.mean(-1).flatten())
        inner = without_border(image)
        bordered.append(inner.size < (1 - BORDER) * image.size)
        layouts.append(layout(inner))
    if not sides:
        raise DataError(
            f"none of {len(chosen)} sampled images under '{source.root}' can be read",
            why=f"the first, {bad[0]}",
            fix=fix_of(bad),
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
        looked_at=len(sides),
        bordered=float(np.mean(bordered)),
        upside_down=upside_down(np.stack(layouts)),
        lying=lying(np.stack(layouts)),
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
