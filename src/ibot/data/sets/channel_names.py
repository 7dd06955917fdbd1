"""Whether files look, by their names, like a channel of an image each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ibot.words import by_numbers

CHANNEL_FILES = "the files look like a channel of an image each"
"""Begins what is said of them, which is not true where they are joined."""
_WORDS = (
    "red|green|blue|nir|swir|pan|dapi|gfp|rfp|yfp|cfp|hoechst|er|rna|agp|mito|dna|bf|brightfield|"
    "phase|fitc|tritc|cy3|cy5|vv|vh|hh|hv"
)
_CHANNEL = rf"[0-9]{{1,2}}|[a-z]{{0,8}}[0-9]{{1,2}}a?|{_WORDS}"
_BEHIND = re.compile(
    rf"(?P<name>.*[^/])(?P<mark>[-_.])(?P<channel>{_CHANNEL})(?P<end>\.[^./]+)", re.IGNORECASE
)
_MOST = 32
"""Channels of an image."""
_WHOLE = 0.9
"""Share of the images that have a file for each channel, from which on names are taken for those
of channels."""
_FEW = 3
"""Images below which names may agree by chance."""
_LOOKED_INTO = 8
"""Files of which all must hold one band of levels."""


def channel_files_note(names: Sequence[str], is_gray: Callable[[str], bool]) -> Iterator[str]:
    """A sentence with the pattern where nearly all of `names` (relative paths) are `NAME_CHANNEL`
    with the same channels for each name, as `cell7_1.tif` to `cell7_6.tif`; none of others.

    is_gray: whether a file holds one band of levels; asked of a few.
    """
    if not (found := _pattern(names)):
        return
    pattern, channels, images = found
    chosen = np.linspace(0, len(names) - 1, min(_LOOKED_INTO, len(names))).astype(int)
    if not all(is_gray(names[int(place)]) for place in chosen):
        return
    few = ", ".join(channels[:8]) + (", ..." if len(channels) > 8 else "")
    yield (
        f"{CHANNEL_FILES}: {images} names with {few} behind them, and each file is read as an "
        f"image; to join them: data.channels=all '{pattern}'"
    )


def _pattern(names: Sequence[str]) -> tuple[str, list[str], int] | None:
    """The setting, the channels in order, and how many images they make."""
    first = _BEHIND.fullmatch(names[0]) if names else None
    if first is None:
        return None
    channels: dict[str, set[str]] = {}
    for name in names:
        match = _BEHIND.fullmatch(name)
        if match and (match["mark"], match["end"]) == (first["mark"], first["end"]):
            channels.setdefault(match["name"], set()).add(match["channel"])
    common, whole = Counter(map(frozenset, channels.values())).most_common(1)[0]
    enough = whole >= max(_FEW, _WHOLE * len(channels)) and whole * len(common) >= _WHOLE * len(
        names
    )
    if not (2 <= len(common) <= _MOST and enough):
        return None
    pattern = f"data.channel_files={{name}}{first['mark']}{{channel}}{first['end']}"
    return pattern, sorted(common, key=by_numbers), whole
