"""What a set of images is like, part by part, from all of them or an even sample; and what follows
for a training.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ibot.data.channels.images import ChannelImages
from ibot.data.channels.sources import LevelFiles
from ibot.data.formats import extension
from ibot.data.look import Look, looks
from ibot.data.same_bytes import same_bytes
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images, LabelledImages
from ibot.explore.duplicates import near_duplicates
from ibot.system.progress import Counter

NEAR = 0.995
"""Cosine between centred thumbnails of 16 x 16 pixels from which on two images count as near
duplicates: copies that were scaled, stored anew or a little brightened, and frames of one scene."""
FLAT = 0.02
"""Deviation of a thumbnail, in levels 0..1, below which it has nothing to compare."""
SIDES = (32, 64, 128, 224, 512, 1024, 2048, 4096)
"""Borders of the histogram of shorter sides, in pixels."""


@dataclass(frozen=True, slots=True)
class Channel:
    """Levels of a channel, 0..1 of whole types; each image counts the same, whatever its size."""

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class PartReport:
    """A part of a set."""

    name: str
    """train, val, or empty where there are no parts."""
    root: str
    images: int
    loose: bool
    """Whether each has a file of its own."""
    by_channels: bool
    """Whether channels are read as they are stored, else colour pictures of 8 bits."""
    looked_at: int
    classes: Mapping[str, int]
    """Images of each class; empty without labels."""
    folders: Mapping[str, int]
    """Images by their folder, relative to the root."""
    extensions: Mapping[str, int]
    kinds: Mapping[str, int]
    """Of those looked at: form, bands and bits, as "JPEG RGB 8 bit"."""
    sides: Mapping[str, int]
    """Shorter sides: images within a range of pixels, as "224-511"."""
    smallest: tuple[int, int]
    """Height and width of the image with the least pixels."""
    middle: tuple[int, int]
    """Medians of height and width."""
    largest: tuple[int, int]
    aspect: tuple[float, float, float]
    """Width over height: least, median, most."""
    gray: float
    """Share without colour."""
    turned: float
    """Share that an EXIF tag turns."""
    broken: tuple[tuple[str, str], ...]
    """Names and reasons."""
    channels: tuple[Channel, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataReport:
    """All parts, and copies within and across them."""

    data: str
    parts: tuple[PartReport, ...]
    exact: tuple[tuple[str, ...], ...]
    """Images of the same bytes: groups of PART/NAME, the largest first."""
    near: tuple[tuple[str, ...], ...]
    """Images that look alike and are not the same file."""
    shared: int
    """Images of `val` that are in `train` too, by their bytes or their looks."""
    exact_among: int
    """Images of which bytes were compared: all of loose files, else those that were looked at."""
    near_among: int
    """Images of which looks were compared: those that were looked at."""


def examine(
    data: str,
    parts: Mapping[str, Images],
    *,
    sample: int = 5000,
    workers: int = 0,
    progress: Counter = None,
    compared: Counter = None,
) -> DataReport:
    """Look at the images of all parts.

    Args:
        data: what the user calls them.
        parts: as of `open_parts`.
        sample: images of a part to look at, evenly spaced; 0: all.
        workers: processes that read them.
        progress: called with the images looked at and in all.
        compared: called with the pairs of images compared and in all, which are many.

    Raises:
        ResourceError: processes cannot be started.
    """
    chosen = {name: evenly(len(images), sample) for name, images in parts.items()}
    total, done = sum(map(len, chosen.values())), 0
    found: dict[str, list[Look]] = {name: [] for name in parts}
    for name, images in parts.items():
        for one in looks(images, chosen[name].tolist(), workers):
            found[name].append(one)
            done += 1
            if progress is not None:
                progress(done, total)
    labels = [label_of(name, parts[name].name(one.index)) for name in found for one in found[name]]
    seen = [one for name in found for one in found[name]]
    again = _exact(seen)
    near = [tuple(labels[i] for i in group) for group in _near(seen, again, compared)]
    if (files := _files(parts)) is not None:
        exact, among = [tuple(group) for group in same_bytes(files)], len(files)
    else:
        exact, among = [tuple(labels[i] for i in group) for group in again], len(seen)
    return DataReport(
        data=data,
        parts=tuple(part_report(name, images, found[name], data) for name, images in parts.items()),
        exact=tuple(exact),
        near=tuple(near),
        shared=len({label for group in (*exact, *near) for label in _leaked(group)})
        if "val" in parts
        else 0,
        exact_among=among,
        near_among=len(seen),
    )


def _leaked(group: Sequence[str]) -> list[str]:
    """The validation images of a group of images that are the same, if some are of training."""
    held = [label for label in group if label.startswith(label_of("val", ""))]
    return held if len(held) < len(group) else []


def _files(parts: Mapping[str, Images]) -> dict[str, Path] | None:
    """The file of each image, by what the report calls it; None where not each has its own."""
    found: dict[str, Path] = {}
    for name, images in parts.items():
        if isinstance(images, ChannelImages) and isinstance(images.base, LevelFiles):
            images = images.base.base
        if not isinstance(images, FileImages) or images.archives is not None:
            return None
        found |= {label_of(name, images.name(i)): images.path(i) for i in range(len(images))}
    return found


def label_of(part: str, name: str) -> str:
    """What the report calls an image: PART/NAME, also where a list names it from the root on."""
    return f"{part}/{name}" if part else name


def evenly(count: int, sample: int) -> NDArray[np.int64]:
    """Numbers of `sample` evenly spaced images of `count`, all for 0."""
    few = min(sample, count) if sample else count
    return np.unique(np.linspace(0, count - 1, few).astype(np.int64))


def part_report(name: str, images: Images, seen: Sequence[Look], data: str) -> PartReport:
    """What was seen of a part, summed up; `data`: what a user calls the set."""
    names = [images.name(i) for i in range(len(images))]
    whole = [one for one in seen if not one.broken]
    kinds = Counts(f"{one.format} {one.mode} {one.bits} bit" for one in seen if one.mode)
    height = np.array([one.height for one in whole] or [0])
    width = np.array([one.width for one in whole] or [0])
    order = np.argsort(height.astype(np.int64) * width)
    sides = np.bincount(np.digitize(np.minimum(height, width), SIDES), minlength=len(SIDES) + 1)
    aspect = width / np.maximum(height, 1)
    return PartReport(
        name=name,
        root=str(images.root) if name else data,
        images=len(images),
        loose=isinstance(images, FileImages) and images.archives is None,
        by_channels=isinstance(images, ChannelImages),
        looked_at=len(seen),
        classes=_classes(images),
        folders=dict(Counts(one.rpartition("/")[0] for one in names).most_common()),
        extensions=dict(Counts(_ending(one) for one in names).most_common()),
        kinds=dict(kinds.most_common()),
        sides=dict(zip(_ranges(), sides.tolist() if whole else [0] * len(sides), strict=True)),
        smallest=(int(height[order[0]]), int(width[order[0]])),
        middle=(int(np.median(height)), int(np.median(width))),
        largest=(int(height[order[-1]]), int(width[order[-1]])),
        aspect=(float(aspect.min()), float(np.median(aspect)), float(aspect.max())),
        gray=float(np.mean([one.gray for one in whole] or [0])),
        turned=float(np.mean([one.turned for one in seen] or [0])),
        broken=tuple((images.name(one.index), one.broken) for one in seen if one.broken),
        channels=_channels(images.channels, whole),
        notes=tuple(images.notes),
    )


def _ending(name: str) -> str:
    """The extension of a file; of one of many in a stack or a slide that of the whole."""
    whole = name.partition("#x=")[0]
    return extension(whole) or extension(whole.rpartition("/")[0]) or "none"


def _ranges() -> list[str]:
    between = [f"{low}-{high - 1}" for low, high in pairwise(SIDES)]
    return [f"1-{SIDES[0] - 1}", *between, f"{SIDES[-1]}-"]


def _classes(images: Images) -> dict[str, int]:
    if not isinstance(images, LabelledImages):
        return {}
    counts = np.bincount(images.labels, minlength=len(images.classes)).tolist()
    return dict(zip(images.classes, counts, strict=True))


def _channels(names: Sequence[str], whole: Sequence[Look]) -> tuple[Channel, ...]:
    """Mean and deviation of each channel over images that count the same."""
    fitting = [one for one in whole if len(one.mean) == len(names)]
    if not fitting:
        return ()
    mean = np.mean([one.mean for one in fitting], 0)
    square = np.mean([one.square for one in fitting], 0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(
        Channel(name, float(m), float(d)) for name, m, d in zip(names, mean, deviation, strict=True)
    )


def _exact(seen: Sequence[Look]) -> list[list[int]]:
    """Groups of places in `seen` whose files have the same bytes."""
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(seen):
        if one.sha256 and one.num_bytes:
            groups.setdefault(one.sha256, []).append(place)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda g: -len(g))


def _near(
    seen: Sequence[Look], exact: Sequence[Sequence[int]], progress: Counter
) -> list[list[int]]:
    """Groups of places in `seen` that look alike; of the same bytes only the first is compared."""
    again = {place for group in exact for place in group[1:]}
    sizes = Counts(one.thumbnail.size for one in seen if not one.broken).most_common(1)
    places = [
        place
        for place, one in enumerate(seen)
        if place not in again
        and not one.broken
        and one.thumbnail.size == sizes[0][0]
        and one.thumbnail.std() > FLAT
    ]
    if len(places) < 2:
        return []
    table = torch.from_numpy(np.stack([seen[place].thumbnail for place in places]))
    centred = table - table.mean(1, keepdim=True)
    groups = near_duplicates(centred, NEAR, scale=True, progress=progress)
    return [[places[i] for i in group.index.tolist()] for group in groups]
