"""One file per channel: which files make an image, by a pattern of their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibot.errors import DataError
from ibot.words import counted

NUMBER_PARTS = re.compile(r"(\d+)")
COMMON = 0.5
"""A channel is one that at least this share of the images has: others are strays."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Which of some files make an image."""

    names: tuple[str, ...]
    """Of the images, sorted: folder and what stands for {name}."""
    channels: tuple[str, ...]
    """What stands for {channel}, numbers by their value."""
    members: NDArray[np.int64]
    """int64 [images, channels]: number of the file, -1 where it is missing."""
    others: int
    """Files that the pattern does not fit, or of channels that few images have."""


def group(files: Iterable[str], pattern: str) -> Groups:
    """Join files to images; a pattern is part of a path: `{name}_{channel}.jp2`,
    `{channel}/{name}.tif`.

    Neither of both holds a slash; folders above the pattern belong to the name.
    Raises DataError for a pattern without both words, or that fits no file.
    """
    find = _expression(pattern).fullmatch
    found: dict[str, dict[str, int]] = {}
    others = 0
    for number, file in enumerate(files):
        if match := find(file):
            name = (match["folder"] or "") + match["name"]
            found.setdefault(name, {})[match["channel"]] = number
        else:
            others += 1
    if not found:
        raise DataError(
            f"no file fits data.channel_files={pattern}",
            why=f"{counted(others, 'file')} of other names",
            fix="give the part of their paths that differs as {name} and {channel}, as in "
            "{name}_{channel}.tif",
        )
    counts = Counter(channel for image in found.values() for channel in image)
    least = COMMON * len(found)
    channels = sorted((name for name, count in counts.items() if count >= least), key=_in_order)
    if not channels:
        channels = sorted(counts, key=_in_order)
    kept = {
        name: image
        for name in sorted(found)
        if not (image := found[name]).keys().isdisjoint(channels)
    }
    members = [[image.get(channel, -1) for channel in channels] for image in kept.values()]
    taken = np.array(members, np.int64)
    strays = sum(map(len, found.values())) - int((taken >= 0).sum())
    return Groups(tuple(kept), tuple(channels), taken, others + strays)


def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(name|channel)\}", pattern)
    if sorted(parts[1::2]) != ["channel", "name"]:
        raise DataError(
            f"data.channel_files={pattern} must hold {{name}} and {{channel}} once each",
            fix="such as {name}_{channel}.tif",
        )
    texts = [f"(?P<{text}>[^/]+)" if i % 2 else re.escape(text) for i, text in enumerate(parts)]
    return re.compile(r"(?P<folder>(?:.*/)?)" + "".join(texts), re.DOTALL)


def _in_order(name: str) -> list[tuple[bool, int, str]]:
    """Numbers within names by their value: B2 before B10, B8 before B8A."""
    parts = NUMBER_PARTS.split(name)
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]
