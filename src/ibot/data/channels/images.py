"""Images of chosen channels: levels [H, W, C] in which every value is a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.config.reading import Channels
from ibot.data.channels.levels import Levels, filled, names_of
from ibot.data.channels.needed import fix_of
from ibot.data.channels.sources import GroupedFiles, LevelImages
from ibot.data.channels.statistics import Statistics, measured
from ibot.data.decode import UnreadableImage
from ibot.data.sets import fingerprints
from ibot.data.sets.same_channels import OtherChannels
from ibot.data.sets.scan import FIRST_PAGE_ONLY
from ibot.errors import DataError

SAMPLE = 16
"""Images whose headers tell which channels a set has."""
MOSTLY = 0.5
"""An image is passed over when more than this share of its values is no number."""
ALL = "all"
SHOWN = 20
"""Names of channels that a message lists."""


class ChannelImages:
    """Images of chosen channels of a set. All have those of the most: others are passed over."""

    def __init__(self, base: LevelImages, asked: Channels) -> None:
        """Raises DataError for channels that the images do not have, and where none can be read."""
        self.base, self.asked = base, asked
        self.stored = _common_channels(base, _names(asked))
        self.chosen_names = _chosen(self.stored, asked, base.root)
        self.channels = _called(self.chosen_names, asked.called)
        # What a number means in one file, it means in others of as many channels alone; and all
        # channels of one file are not all of another.
        numbered = not _names(asked) or any(name.isdigit() for name in self.chosen_names)
        self._by_place = numbered and not isinstance(base, GroupedFiles)
        self._statistics: list[Statistics] = []

    @property
    def root(self) -> Path:
        """As of the base."""
        return self.base.root

    @property
    def notes(self) -> tuple[str, ...]:
        """What was and was not taken, and how much of a sample is no number, once it is known."""
        notes = [note for note in self.base.notes if not note.startswith(FIRST_PAGE_ONLY)]
        notes += self._taken()
        return (*notes, *(note for known in self._statistics for note in known.notes()))

    def __len__(self) -> int:
        return len(self.base)

    def name(self, index: int) -> str:
        """As of the base."""
        return self.base.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, from the header. Raises UnreadableImage."""
        header = self.base.header(index)
        return header.height, header.width

    def read(self, index: int) -> NDArray[np.float32]:
        """Levels [H, W, C], all numbers. Raises UnreadableImage."""
        values = self.measured(index)
        invalid = np.isnan(values)
        if not invalid.any():
            return values
        return filled(values, self.asked.mean or self.statistics().mean)

    def measured(self, index: int) -> NDArray[np.float32]:
        """Levels [H, W, C] of the chosen channels; NaN where nothing was measured.

        Raises UnreadableImage for an image of other channels or that is mostly NaN too.
        """
        return mostly_measured(self.chosen(self.base.levels(index, self.chosen_names)))

    def chosen(self, levels: Levels) -> NDArray[np.float32]:
        """The chosen channels [H, W, C] of levels of an image, or of a part of one.

        Raises UnreadableImage for an image of other channels.
        """
        values = levels.values
        places = self._places(levels.names)
        if places != list(range(values.shape[2])):
            values = np.ascontiguousarray(values[..., places])
        return values

    def statistics(self) -> Statistics:
        """Of a sample, computed once and kept in the cache. Raises DataError: none is readable."""
        if not self._statistics:
            self._statistics.append(measured(self))
        return self._statistics[0]

    def fingerprint(self) -> str:
        """SHA-256 in hex of the base's, the channels, and what stands for missing values."""
        numbers = np.array([*self.asked.no_data, np.nan, *self.asked.mean], np.float64)
        parts = ("channels 1", self.base.fingerprint(), *self.chosen_names)
        return fingerprints.digest(*parts, numbers)

    def provenance(self) -> dict[str, object]:
        """What a run notes of its data, the channels, and how much of a sample was no number."""
        found = {**self.base.provenance(), "channels": list(self.chosen_names)}
        for known in self._statistics:
            found["invalid_share"] = known.invalid / known.values
        return found

    def _taken(self) -> Iterator[str]:
        """Where channels were not found by the names that were asked for, what was taken."""
        asked, taken = _names(self.asked), self.chosen_names
        nameless = self.stored == names_of(len(self.stored))
        if asked not in ((), taken) and set(asked).isdisjoint(self.stored):
            how = "the files do not name their channels" if nameless else "by their numbers"
            yield f"{how}: {_few(taken)} are taken for {_few(asked)}"
        elif asked and nameless and self._by_place and len(taken) < len(self.stored):
            yield f"of {_few(self.stored)} without names {_few(taken)} are taken"
        if self.channels != taken:
            yield f"{_few(taken)} are taken for {_few(self.channels)}"

    def _places(self, names: tuple[str, ...]) -> list[int]:
        """Where the channels lie in an image that has `names`."""
        place = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.chosen_names if name not in place]
        if missing or (self._by_place and set(names) != set(self.stored)):
            raise UnreadableImage("other channels", f"{_few(names)}, not {_few(self.stored)}")
        return [place[name] for name in self.chosen_names]


class LabelledChannelImages(ChannelImages):
    """Images of chosen channels, with a class each."""

    def __init__(
        self,
        base: LevelImages,
        asked: Channels,
        labels: NDArray[np.int32],
        classes: tuple[str, ...],
    ) -> None:
        """As `ChannelImages`; `labels` int32 [n] into `classes`."""
        super().__init__(base, asked)
        self.labels, self.classes = labels, classes

    def label(self, index: int) -> int:
        """Class of an image."""
        return int(self.labels[index])


def mostly_measured(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same levels. Raises UnreadableImage where most are no numbers."""
    invalid = float(np.isnan(values).mean())
    if invalid > MOSTLY:
        raise UnreadableImage(
            "mostly invalid", f"{invalid:.0%} of its values are no numbers or no data"
        )
    return values


def _names(asked: Channels) -> tuple[str, ...]:
    """The channels that are asked for by name or number; none for all."""
    names = tuple(name.strip() for name in asked.names.split(","))
    return () if names == (ALL,) else names


def _common_channels(base: LevelImages, wanted: Sequence[str]) -> tuple[str, ...]:
    """The channels that most images of a sample have. Raises DataError where none can be read.

    Those that have the `wanted` ones by name count alone, where there are some.
    """
    chosen = np.unique(np.linspace(0, len(base) - 1, min(SAMPLE, len(base))).astype(int))
    found: Counter[tuple[str, ...]] = Counter()
    bad = []
    for index in chosen.tolist():
        try:
            found[base.header(index).names] += 1
        except UnreadableImage as error:
            bad.append(f"'{base.name(index)}': {error}")
    if not found:
        raise DataError(
            f"none of {len(bad)} sampled images under '{base.root}' can be read",
            why=f"the first, {bad[0]}",
            fix=fix_of(bad),
        )
    fitting = {names: n for names, n in found.items() if set(wanted) <= set(names)}
    return Counter(fitting or found).most_common(1)[0][0]


def _chosen(stored: tuple[str, ...], asked: Channels, root: Path) -> tuple[str, ...]:
    """The channels asked for, by their names, else by their numbers from 1. Raises DataError.

    Channels that no file names are taken in their order for as many names.
    """
    names, chosen = _names(asked) or stored, []
    if stored == names_of(len(names)) and set(names).isdisjoint(stored):
        return stored
    for name in names:
        if name in stored:
            chosen.append(name)
        elif name.isascii() and name.isdigit() and 1 <= int(name) <= len(stored):
            chosen.append(stored[int(name) - 1])
        else:
            raise OtherChannels(
                f"the images in '{root}' have no channel '{name}'",
                why=f"they have {_few(stored)}",
                fix="choose by these names or by numbers from 1, or take all (data.channels=all); "
                "a trained network needs images of its own channels",
            )
    if len(set(chosen)) < len(chosen):
        raise DataError(
            f"data.channels={asked.names} names a channel twice", fix="name each one once"
        )
    return tuple(chosen)


def _called(chosen: tuple[str, ...], called: tuple[str, ...]) -> tuple[str, ...]:
    """What a network calls the channels that were chosen for it; their own names where those are
    more or fewer, or one of the network's stands in another place.
    """
    known = {name: place for place, name in enumerate(called)}
    moved = any(known.get(name, place) != place for place, name in enumerate(chosen))
    return chosen if moved or len(called) != len(chosen) else called


def _few(names: Sequence[str]) -> str:
    shown = ",".join(names[:SHOWN]) + (",..." if len(names) > SHOWN else "")
    return f"{len(names)} ({shown})"
