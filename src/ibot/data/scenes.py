"""Generated scenes of composed objects with labels, boxes and instance masks, still or moving.

A class is an arrangement of parts: a house is a triangle on a square, a car a low box on two
wheels. Place, size, tilt, mirroring, shades, light and noise are free, and dark objects on light
paper are as frequent as the reverse. So no pixel and no patch tells the class. Used by the tests
and later the dense tasks; the demo draws `ibot.data.reef`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ibot.rng import Purpose, uniform

Polygon = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])
SUPERSAMPLING = 3
"""Shapes are drawn at this multiple of the image's side and averaged down: smooth edges."""


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _disk(x: float, y: float, radius: float, squeeze: float = 1.0) -> Polygon:
    angle = np.linspace(0, 2 * math.pi, 20, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * squeeze * np.sin(angle)], axis=1)


def _triangle(*corners: tuple[float, float]) -> Polygon:
    return np.array(corners)


def _petals(count: int, reach: float, radius: float) -> list[Polygon]:
    angles = np.arange(count) * 2 * math.pi / count
    return [_disk(reach * math.cos(a), -0.35 + reach * math.sin(a), radius) for a in angles]


OBJECTS: dict[str, list[Polygon]] = {
    "house": [
        _box(-0.7, -0.1, 0.7, 0.9),
        _triangle((-0.95, -0.1), (0, -0.9), (0.95, -0.1)),
        _box(-0.2, 0.35, 0.2, 0.9),
    ],
    "car": [
        _box(-0.95, -0.05, 0.95, 0.45),
        _box(-0.5, -0.55, 0.45, -0.05),
        _disk(-0.5, 0.5, 0.28),
        _disk(0.5, 0.5, 0.28),
    ],
    "tree": [_box(-0.14, 0.1, 0.14, 0.95), _disk(0, -0.3, 0.65)],
    "snowman": [_disk(0, 0.45, 0.5), _disk(0, -0.25, 0.36), _disk(0, -0.75, 0.24)],
    "boat": [
        np.array([(-0.95, 0.3), (0.95, 0.3), (0.5, 0.8), (-0.5, 0.8)]),
        _triangle((0.05, -0.9), (0.05, 0.2), (0.8, 0.2)),
        _box(-0.06, -0.9, 0.05, 0.3),
    ],
    "flower": [_box(-0.07, 0.0, 0.07, 0.95), *_petals(5, 0.42, 0.26), _disk(0, -0.35, 0.22)],
    "table": [
        _box(-0.95, -0.35, 0.95, -0.1),
        _box(-0.8, -0.1, -0.6, 0.8),
        _box(0.6, -0.1, 0.8, 0.8),
    ],
    "ladder": [
        _box(-0.5, -0.95, -0.35, 0.95),
        _box(0.35, -0.95, 0.5, 0.95),
        *(_box(-0.5, y, 0.5, y + 0.14) for y in (-0.7, -0.25, 0.2, 0.65)),
    ],
    "fish": [
        _disk(-0.15, 0, 0.65, 0.6),
        _triangle((0.35, 0), (0.95, -0.5), (0.95, 0.5)),
        _disk(-0.5, -0.08, 0.1),
    ],
    "mug": [
        _box(-0.6, -0.6, 0.35, 0.8),
        _box(0.35, -0.3, 0.8, -0.14),
        _box(0.35, 0.3, 0.8, 0.46),
        _box(0.66, -0.3, 0.82, 0.46),
    ],
}
"""The parts of each class in a square of -1..1, drawn in this order."""
CLASSES = tuple(OBJECTS)


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and the truth about it."""

    image: NDArray[np.uint8]
    """[S, S, 3]."""
    label: int
    """Class of the first, largest object: index into CLASSES."""
    labels: tuple[int, ...]
    """Class of every object, first drawn first."""
    boxes: NDArray[np.float32]
    """[n, 4], left, top, right, bottom in pixels, of the visible part."""
    masks: NDArray[np.bool_]
    """[n, S, S], pixels where the object is seen."""


def draw_scene(
    seed: int,
    index: int,
    *,
    size: int = 32,
    objects: int = 1,
    frame: int = 0,
    clutter: int = 0,
    color: float = 0.0,
) -> Scene:
    """The scene number `index` of a set.

    Args:
        seed: of the set.
        index: of the scene; the class of its first object is index % number of classes.
        size: S, side in pixels.
        objects: objects per scene; later ones are smaller and lie in front.
        frame: time; objects move along straight lines, a few pixels per frame.
        clutter: strokes behind the objects, edges that say nothing.
        color: 0 for gray pictures, 1 for free colours. Free colours tell pictures apart so well
            that a short training learns little else.
    """
    numbers = iter(uniform(seed, 0, index, np.arange(3 + objects), Purpose.SCENE, 128).tolist())
    canvas = _background(Draws(next(numbers)), size)
    paper = float(_gray(canvas).mean())
    _strokes(canvas, Draws(next(numbers)), size, clutter)
    light = Draws(next(numbers))
    labels, masks = [], np.zeros((objects, size, size))
    for i in range(objects):
        draws = Draws(next(numbers))
        label = draws.integer(len(CLASSES))
        labels.append(index % len(CLASSES) if i == 0 else label)
        masks[i] = _draw_object(
            canvas, draws, OBJECTS[CLASSES[labels[i]]], paper, 1.0 if i == 0 else 0.6, frame
        )
        masks[:i] *= 1 - masks[i]  # what lies in front hides what lies behind
    seen = masks > 0.5
    canvas = _gray(canvas)[..., None] * (1 - color) + canvas * color
    image = _lighted(canvas, light, np.random.default_rng((seed, index, frame)))
    boxes = np.array([_bounding_box(mask) for mask in seen], dtype=np.float32).reshape(-1, 4)
    return Scene(image, labels[0], tuple(labels), boxes, seen)


class Draws:
    """Numbers in [0, 1), one after the other."""

    def __init__(self, numbers: list[float]) -> None:
        self._numbers = iter(numbers)

    def between(self, low: float, high: float) -> float:
        """The next one, scaled."""
        return low + (high - low) * next(self._numbers)

    def integer(self, below: int) -> int:
        """The next one as a whole number from 0 on."""
        return int(next(self._numbers) * below)

    def color(self) -> NDArray[np.float64]:
        """The next three: [3]."""
        return np.array([self.between(0, 1) for _ in range(3)])


def _gray(canvas: NDArray[np.float64]) -> NDArray[np.float64]:
    return canvas @ LUMA


def _background(draws: Draws, size: int) -> NDArray[np.float64]:
    """A gentle gradient in a free direction: float64 [S, S, 3] in 0..1."""
    angle = draws.between(0, 2 * math.pi)
    line = np.linspace(-0.7, 0.7, size)
    position = (np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]).clip(-0.5, 0.5) + 0.5
    first = draws.color()
    second = (first + 0.4 * (draws.color() - 0.5)).clip(0, 1)
    return first + position[..., None] * (second - first)


def _strokes(canvas: NDArray[np.float64], draws: Draws, size: int, count: int) -> None:
    """Short lines of free colour."""
    for _ in range(count):
        center = np.array([draws.between(0, 1), draws.between(0, 1)])
        angle, length, width = (
            draws.between(0, math.pi),
            draws.between(0.1, 0.4),
            draws.between(0.02, 0.05),
        )
        along = np.array([math.cos(angle), math.sin(angle)])
        across = np.array([-along[1], along[0]]) * width
        corners = [
            center + s * along * length / 2 + t * across
            for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        _paint(canvas, np.array(corners) * size, draws.color())


def _draw_object(
    canvas: NDArray[np.float64],
    draws: Draws,
    parts: list[Polygon],
    paper: float,
    scale: float,
    frame: int,
) -> NDArray[np.float64]:
    """Draw an object in shades of one colour that stands out; returns its coverage [S, S], 0..1."""
    size = len(canvas)
    radius = scale * draws.between(0.22, 0.38)
    tilt = draws.between(-0.35, 0.35)
    mirror = -1.0 if draws.between(0, 1) < 0.5 else 1.0
    stretch = draws.between(0.85, 1.15)
    room = 0.5 - radius * 0.8
    place = np.array([0.5 + draws.between(-room, room), 0.5 + draws.between(-room, room)])
    heading, speed = draws.between(0, 2 * math.pi), draws.between(0.01, 0.04)
    place += frame * speed * np.array([math.cos(heading), math.sin(heading)])
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    color = draws.color()
    shade = draws.between(0.65, 0.95) if paper < 0.5 else draws.between(0.05, 0.35)
    color = (color + shade - color @ LUMA).clip(0, 1)
    coverage = np.zeros((size, size))
    for part in parts:
        corners = (part * [mirror * stretch, 1 / stretch]) @ turn.T * radius + place
        part_color = (color + 0.3 * (draws.color() - 0.5)).clip(0, 1)
        coverage = np.maximum(coverage, _paint(canvas, corners * size, part_color))
    return coverage


def _paint(
    canvas: NDArray[np.float64], corners: Polygon, color: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fill a polygon (pixels) in place; returns its coverage [S, S]."""
    size = len(canvas)
    large = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    ImageDraw.Draw(large).polygon(
        [tuple(point) for point in (corners * SUPERSAMPLING).tolist()], fill=255
    )
    coverage = np.asarray(large.reduce(SUPERSAMPLING)) / 255
    canvas += coverage[..., None] * (color - canvas)
    return coverage


def _lighted(
    canvas: NDArray[np.float64], draws: Draws, noise: np.random.Generator
) -> NDArray[np.uint8]:
    """Brightness, contrast, and the noise of a sensor."""
    image = 0.5 + (canvas - 0.5) * draws.between(0.5, 1.0) + draws.between(-0.15, 0.15)
    image = image + noise.normal(0, 0.02, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0, 0, 0)
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


class Kind(NamedTuple):
    """What the images of a set show."""

    name: str
    classes: tuple[str, ...]
    draw: Callable[[int, int, int], NDArray[np.uint8]]
    """Seed, index and side in pixels -> uint8 [S, S, 3]; its class is index % number of them."""


def _still(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    return draw_scene(seed, index, size=size).image


OBJECT_SCENES = Kind("", CLASSES, _still)
"""Of the first kind there was: its name does not stand in folders."""


def write_folder(
    root: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    size: int = 32,
    kind: Kind = OBJECT_SCENES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a labelled set of still scenes: `root/train/CLASS/00000.png`, and `val` likewise.

    A set that is already there with the same numbers is kept, and one that was interrupted is gone
    on with: its pictures are whole.
    """
    mark, begun = root / "scenes.txt", root / "begun.txt"
    content = f"{kind.name} seed {seed} size {size} train {train} val {val}\n".lstrip()
    if mark.exists() and mark.read_text() == content:
        return
    keep = begun.exists() and begun.read_text() == content
    jobs = [("train", i) for i in range(train)] + [("val", train + i) for i in range(val)]
    for split in ("train", "val"):
        for name in kind.classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    begun.write_text(content)
    with ProcessPoolExecutor() as pool:
        chunks = [jobs[i : i + 500] for i in range(0, len(jobs), 500)]
        for done, _ in enumerate(
            pool.map(partial(_write, root, seed, size, keep, kind), chunks), 1
        ):
            if progress is not None:
                progress(min(done * 500, len(jobs)), len(jobs))
    begun.replace(mark)


def _write(
    root: Path, seed: int, size: int, keep: bool, kind: Kind, jobs: list[tuple[str, int]]
) -> None:
    """Draw scenes; with `keep` those alone whose pictures are missing."""
    for split, index in jobs:
        place = root / split / kind.classes[index % len(kind.classes)] / f"{index:05d}.png"
        if keep and place.exists():
            continue
        image = Image.fromarray(kind.draw(seed, index, size))
        # Not by system/files.py: waiting for the disk 14,000 times takes longer than drawing.
        unfinished = place.with_suffix(".tmp")
        image.save(unfinished, format="PNG")
        unfinished.replace(place)
