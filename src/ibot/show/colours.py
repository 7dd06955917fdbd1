"""Colours of maps, of heads, and of whatever else is told apart by them."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.show.plotting import importing

PALETTE: tuple[tuple[int, int, int], ...] = (
    *((0, 160, 215), (220, 55, 60), (245, 180, 0), (10, 120, 190), (40, 150, 100), (135, 75, 145)),
    *((240, 130, 170), (150, 200, 60), (150, 95, 40), (0, 190, 170), (255, 130, 30)),
    *((150, 150, 235), (200, 200, 150), (120, 20, 50), (90, 110, 20), (190, 90, 210)),
)
"""Colours of heads and such; the first six as published (spec_evaluation 10.1), then others that
differ in lightness too. More than there are: they begin anew."""


def between_ends(values: NDArray[Any]) -> NDArray[np.float64]:
    """Values from their lowest, which becomes 0, to their highest, 1; all 0 if they are equal."""
    low, high = float(values.min()), float(values.max())
    return (
        (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)
    )


@lru_cache(maxsize=8)
def color_table(name: str) -> NDArray[np.uint8]:
    """A colour map of matplotlib (viridis, inferno, cividis, ...): uint8 [256, 3].

    Raises MissingExtra without matplotlib.
    """
    with importing():
        from matplotlib import colormaps
    return (colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def in_colors(shares: NDArray[np.floating], name: str = "viridis") -> NDArray[np.uint8]:
    """Values 0..1 [h, w] in the colours of a map: uint8 [h, w, 3]. Raises MissingExtra."""
    return color_table(name)[np.rint(shares.clip(0, 1) * 255).astype(np.uint8)]


def distinct_color(number: int) -> tuple[int, int, int]:
    """A colour far from those of the neighbouring numbers, of classes or words."""
    hue = number * 0.618034 % 1  # the golden section spreads any number of them
    red, green, blue = colorsys.hsv_to_rgb(
        hue, 0.85 - 0.3 * (number % 2), 0.95 - 0.2 * (number % 3)
    )
    return round(255 * red), round(255 * green), round(255 * blue)
