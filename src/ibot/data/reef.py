"""Generated shoals: fish of one species over coral, with the true species of every pixel.

A species is a form and a pattern of two colours that mix to gray. Number, place, size, direction
and lightness of the fish are free, and coral of every colour lies behind them: the mean colour of
an image and a pixel at its place tell little of the species. But for the light, it is all that two
views of an image have in common, and two images of different species have not. Used by the demo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibot.data.scenes import Draws, Kind
from ibot.rng import Purpose, uniform

HUES = {"coral": 0.0, "amber": 0.125, "lime": 0.25, "jade": 0.375}
"""The first of two opposite colours, in turns around the axis of grays."""
PATTERNS = ("banded", "striped", "checked", "headed", "backed")
FORMS = {"oval": (0.72, 0.5), "slim": (0.8, 0.38), "round": (0.62, 0.62)}
"""Half length and half height of the body; a fish reaches from -1 to 1."""
SPECIES = tuple(f"{pattern}-{hue}" for hue in HUES for pattern in PATTERNS)
"""Each with the form of its number, in turns."""
HALF_LENGTH = 9.6, 13.4
"""Of a fish, pixels."""
CROWD = 6, 9
"""Fish of an image of `SIDE`; of larger ones as many for their area."""
SIDE = 48
COARSEST = 16
"""Longest wave of the coral, pixels: longer ones would tell images apart by their colour."""
CORAL = 0.15
"""Deviation of the colours of the coral, of 1."""
SUPERSAMPLING = 2
NUMBERS = 16
"""Drawn for each fish, and for what is around them."""


@dataclass(frozen=True, slots=True)
class Shoal:
    """One picture and the truth about it."""

    image: NDArray[np.uint8]
    """[S, S, 3]."""
    species: int
    """Index into SPECIES."""
    labels: NDArray[np.int16]
    """[S, S], 0 where there is no fish, else 1 + species."""


def draw_shoal(seed: int, index: int, *, size: int = SIDE) -> Shoal:
    """The image number `index` of a set, its species index % number of species.

    Args:
        seed: of the set.
        index: of the image.
        size: S, side in pixels; the fish stay as large as they are.
    """
    around = Draws(uniform(seed, 0, index, 0, Purpose.REEF, NUMBERS).tolist())
    noise = np.random.default_rng((seed, index))
    canvas = _coral(noise, size)
    species = index % len(SPECIES)
    labels = np.zeros((size, size), np.int16)
    count = round(around.between(*CROWD) * (size / SIDE) ** 2)
    for numbers in uniform(seed, 0, index, 1 + np.arange(count), Purpose.REEF, NUMBERS).tolist():
        _draw_fish(canvas, labels, species, Draws(numbers))
    image = _lighted(canvas, around) + noise.normal(0, 0.02, canvas.shape)
    return Shoal((image.clip(0, 1) * 255).round().astype(np.uint8), species, labels)


def _image(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    return draw_shoal(seed, index, size=size).image


SHOALS = Kind("shoals", SPECIES, _image)
"""For `ibot.data.scenes.write_folder`."""


def _coral(noise: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Clutter of all colours, [S, S, 3] around 0.5; power falls with frequency as in photographs.

    Without the long waves: those would be the easiest way to tell two images apart.
    """
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size)[None] ** 2
    # Amplitude falls as frequency to the power of 2.5.
    amplitude = np.where(squared < COARSEST**-2, 0.0, np.maximum(squared, COARSEST**-2) ** -1.25)
    parts = noise.standard_normal((2, 3, *squared.shape))
    waves = np.fft.irfft2((parts[0] + 1j * parts[1]) * amplitude, s=(size, size), axes=(1, 2))
    waves = (waves / waves.std()).transpose(1, 2, 0)
    gray = waves.mean(axis=2, keepdims=True)
    return 0.5 + CORAL * (waves + 0.7 * gray)


def _lighted(canvas: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:
    """Light from a side, and more or less of it."""
    size, angle = len(canvas), draws.between(0, 2 * math.pi)
    line = np.linspace(-1, 1, size)
    ramp = math.cos(angle) * line[None] + math.sin(angle) * line[:, None]
    return canvas * np.exp(0.3 * (ramp * draws.between(0, 1) + draws.between(-1, 1)))[..., None]


def _draw_fish(
    canvas: NDArray[np.float64],
    labels: NDArray[np.int16],
    species: int,
    draws: Draws,
) -> None:
    """Draw one in place, and its species into `labels`; beyond the edges it is cut off."""
    size, half = len(canvas), draws.between(*HALF_LENGTH)
    place = draws.between(0, size), draws.between(0, size)
    left, top = (max(0, int(at - 1.15 * half)) for at in place)
    right, bottom = (min(size, int(at + 1.15 * half) + 2) for at in place)
    columns, rows = (
        (np.arange(low * SUPERSAMPLING, high * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - at
        for low, high, at in zip((left, top), (right, bottom), place, strict=True)
    )
    x, y = np.meshgrid(columns / half, rows / half)
    angle, stretch = draws.between(-math.pi, math.pi), draws.between(0.9, 1.1)
    mirror = -1 if draws.between(0, 1) < 0.5 else 1
    along = mirror / stretch * (math.cos(angle) * x + math.sin(angle) * y)
    across = stretch * (math.cos(angle) * y - math.sin(angle) * x)
    inside = _outline(along, across, species)
    colors = np.where(_pattern(along, across, species)[..., None], *_colors(species, draws))
    colors[(along + 0.62) ** 2 + (across + 0.1) ** 2 < 0.09**2] = 0.05  # the eye
    covered = inside[..., None].astype(np.float64)
    painted, covered = _reduced(colors * covered), _reduced(covered)
    part = canvas[top:bottom, left:right]
    part += painted - covered * part
    labels[top:bottom, left:right][covered[..., 0] > 0.5] = 1 + species


def _reduced(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of cells of SUPERSAMPLING x SUPERSAMPLING."""
    step = SUPERSAMPLING
    corners = [values[row::step, column::step] for row in range(step) for column in range(step)]
    return sum(corners[1:], corners[0]) / step**2


def _outline(
    along: NDArray[np.float64], across: NDArray[np.float64], species: int
) -> NDArray[np.bool_]:
    """Body and tail; `along` runs from the head, -1, to the end of the tail, 1."""
    length, height = [*FORMS.values()][species % len(FORMS)]
    body = ((along + 0.2) / length) ** 2 + (across / height) ** 2 < 1
    tail = (along > 0.35) & (along < 0.98) & (np.abs(across) < 0.12 + 0.75 * (along - 0.45))
    return body | tail


def _pattern(
    along: NDArray[np.float64], across: NDArray[np.float64], species: int
) -> NDArray[np.bool_]:
    """Where the first of the two colours is."""
    name = PATTERNS[species % len(PATTERNS)]
    if name == "banded":
        return np.sin(8.5 * along + 1.0) > 0
    if name == "striped":
        return np.sin(13 * across) > 0
    if name == "checked":
        return np.sin(10 * along) * np.sin(10 * across) > 0
    return along > -0.15 if name == "headed" else across > 0


def _colors(species: int, draws: Draws) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two colours of a fish: opposite hues of one lightness, both a little off."""
    hue, lightness = [*HUES.values()][species // len(PATTERNS)], draws.between(0.35, 0.65)
    first, second = (hue + turn + draws.between(-0.035, 0.035) for turn in (0.0, 0.5))
    return _color(first, lightness), _color(second, lightness)


def _color(hue: float, lightness: float) -> NDArray[np.float64]:
    """Red, green, blue on a circle around a gray."""
    u, v = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    axes = np.array([[2, 0], [-1, math.sqrt(3)], [-1, -math.sqrt(3)]]) / math.sqrt(6)
    return lightness + 0.45 * (axes @ [u, v])
