"""Mean and deviation of each channel over a sample of a set, kept in the cache of features."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ibot.data.channels.levels import to_levels
from ibot.data.channels.needed import fix_of
from ibot.data.decode import UnreadableImage
from ibot.data.sets.images import Images
from ibot.errors import DataError
from ibot.system.jsonl import write_json
from ibot.system.places import expanded
from ibot.system.processes import launched_processes
from ibot.system.progress import counter

FOLDER = "~/.cache/ibot/statistics"
"""Beside the cached features."""
SAMPLE = 256
"""Images looked at, evenly spaced."""
_COUNTS = ("values", "invalid", "images", "unreadable")
FLAT = 1e-7
"""Share of its mean below which a deviation is rounding: the channel has one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a sample of images holds, by channel."""

    mean: tuple[float, ...]
    """Of levels, invalid ones left out; 0 where all are."""
    std: tuple[float, ...]
    """Deviation; 1 where all values are the same, as what is divided by it then is zero."""
    values: int
    """That were looked at, in all channels."""
    invalid: int
    """Of those: no numbers, and no data."""
    images: int
    """That were read."""
    unreadable: int

    def notes(self) -> list[str]:
        """In words, how much is invalid."""
        if not self.invalid:
            return []
        share = self.invalid / self.values
        return [
            f"{self.invalid} of {self.values} values in {self.images} sampled images ({share:.2g} "
            "of all) are no numbers or no data: they become the mean of their channel"
        ]


@runtime_checkable
class _Measured(Protocol):
    """Images that give their levels with NaN where nothing was measured."""

    def measured(self, index: int) -> NDArray[np.float32]: ...

    def statistics(self) -> Statistics: ...


def statistics_of(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation (above 0) of the levels of each channel, over a sample.

    Raises DataError where none of the sampled images can be read.
    """
    found = images.statistics() if isinstance(images, _Measured) else measured(images)
    return found.mean, found.std


def measured(images: Images) -> Statistics:
    """Statistics of a sample, from the cache where they lie. Raises DataError."""
    place = _place(images)
    known = None if place is None else _kept(place, len(images.channels))
    if known is not None:
        return known
    show = counter("statistics of channels") if launched_processes().is_main else None
    found = compute(images, show)
    if place is not None:
        with suppress(OSError):  # what cannot be kept is computed again
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, {"about": place.stem, **asdict(found)})
    return found


def compute(images: Images, show: Callable[[int, int], None] | None = None) -> Statistics:
    """Statistics of `SAMPLE` evenly spaced images, in float64. Raises DataError."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int))
    read = images.measured if isinstance(images, _Measured) else images.read
    total, bad = _Sums(), []
    for done, index in enumerate(chosen.tolist(), 1):
        try:
            total.add(to_levels(read(index)))
        except UnreadableImage as error:
            bad.append(f"'{images.name(index)}': {error}")
        if show is not None:
            show(done, len(chosen))
    if not total.images:
        raise DataError(
            f"none of {len(chosen)} sampled images under '{images.root}' can be read",
            why=f"the first, {bad[0]}",
            fix=fix_of(bad),
        )
    mean, std = total.result()
    return Statistics(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        values=total.values,
        invalid=total.values - int(total.count.sum()),
        images=total.images,
        unreadable=len(bad),
    )


class _Sums:
    """Count, mean and squared deviations of images so far, joined pair by pair (Chan et al.,
    1983): sums of squares would cancel where channels lie far from zero.
    """

    def __init__(self) -> None:
        self.images = self.values = 0
        self.count: NDArray[np.float64] = np.zeros(1)
        self.mean: NDArray[np.float64] = np.zeros(1)
        self.squares: NDArray[np.float64] = np.zeros(1)

    def add(self, levels: NDArray[np.float32]) -> None:
        """An image [H, W, C]; NaN is left out."""
        flat = levels.reshape(-1, levels.shape[-1]).astype(np.float64)
        valid = ~np.isnan(flat)
        count = valid.sum(0).astype(np.float64)
        mean = np.where(valid, flat, 0).sum(0) / np.maximum(count, 1)
        squares = (np.where(valid, flat - mean, 0) ** 2).sum(0)
        both = np.maximum(self.count + count, 1)
        apart = mean - self.mean
        self.squares = self.squares + squares + apart**2 * self.count * count / both
        self.mean = self.mean + apart * count / both
        self.count = self.count + count
        self.images += 1
        self.values += levels.size

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        flat = std <= FLAT * np.abs(self.mean)
        return self.mean, np.where(flat, 1.0, std)


def _place(images: Images) -> Path | None:
    """The file of the cache; None for somebody without a home."""
    with suppress(RuntimeError):
        return expanded(FOLDER) / f"{images.fingerprint()}.json"
    return None


def _kept(place: Path, channels: int) -> Statistics | None:
    """What a file of the cache says; None where it is damaged, of other images or channels: every
    pixel is divided by what it says.
    """
    try:
        plain: dict[str, Any] = json.loads(place.read_bytes())
        mean, std = tuple(map(float, plain.pop("mean"))), tuple(map(float, plain.pop("std")))
        found = Statistics(mean=mean, std=std, **{key: int(plain[key]) for key in _COUNTS})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    whole = plain.get("about") == place.stem and len(mean) == len(std) == channels
    usable = all(map(math.isfinite, (*mean, *std))) and min(std, default=0.0) > 0
    counts = 0 <= found.invalid <= found.values and found.images > 0
    return found if whole and usable and counts else None
