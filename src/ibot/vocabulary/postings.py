"""Where each word occurs, best score first: lists of all places, sorted without holding them.

Two stable counting sorts on files, first by score, then by word: what one of them holds is a block
of places and a counter for each value, however many places there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.eval.features.entry import allocate, mapped
from ibot.system.files import replacing

BLOCK = 2**20
"""Places that are sorted at a time."""
CODES = 2**16
"""Of 16-bit numbers."""

Columns = Sequence[NDArray[Any]]
Source = Callable[[], Iterator[tuple[NDArray[Any], Columns]]]


def write_postings(
    folder: Path,
    name: str,
    words: NDArray[np.int32],
    scores: NDArray[np.float16],
    count: int,
    block: int = BLOCK,
) -> None:
    """Write NAME_starts.npy, NAME_rows.npy and NAME_places.npy.

    Occurrences of word w are those from starts[w] to starts[w + 1]: row int32 and place (patch)
    int16, or int32 where there are more patches than that holds. The best score stands first, equal
    ones in order of row, then place.

    Args:
        folder: where.
        name: of the files.
        words: int32 [n, N], below `count`; may be mapped.
        scores: float16 [n, N].
        count: K.
        block: places held at a time.
    """
    total, width = words.size, words.shape[1]
    place = np.dtype(np.int16 if width <= np.iinfo(np.int16).max else np.int32)
    # Words of 16 bits sort faster.
    word = np.dtype(np.uint16 if count <= CODES else np.int32)
    step = max(1, block // width)
    with _scratch(folder / ".sorting") as scratch:
        by_score = [
            _new(scratch / f"{i}.npy", kind, total)
            for i, kind in enumerate((word, np.dtype(np.int32), place))
        ]
        places = np.arange(width, dtype=place)

        def grid() -> Iterator[tuple[NDArray[Any], Columns]]:
            for start in range(0, len(words), step):
                part = np.ascontiguousarray(words[start : start + step])
                rows = np.arange(start, start + len(part), dtype=np.int32)
                columns = (
                    part.astype(word).ravel(),
                    np.repeat(rows, width),
                    np.tile(places, len(part)),
                )
                yield falling(scores[start : start + step].ravel()), columns

        _sort(grid, CODES, by_score)

        def sorted_so_far() -> Iterator[tuple[NDArray[Any], Columns]]:
            for start in range(0, total, block):
                key, *columns = (np.array(column[start : start + block]) for column in by_score)
                yield key, columns

        with (
            replacing(folder / f"{name}_rows.npy") as rows_file,
            replacing(folder / f"{name}_places.npy") as places_file,
            replacing(folder / f"{name}_starts.npy") as starts_file,
        ):
            into = [_new(rows_file, np.dtype(np.int32), total), _new(places_file, place, total)]
            starts = _sort(sorted_so_far, count, into)
            with starts_file.open("wb") as file:
                np.save(file, starts)


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """A folder for the time of a sort; what one that was killed has left there is removed."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def falling(scores: NDArray[np.float16]) -> NDArray[np.uint16]:
    """A code for each of the 16-bit numbers, the smallest for the largest number."""
    bits = (scores + np.float16(0)).view(np.uint16)  # -0 becomes 0
    # Bits of positive numbers rise with them, those of negative ones fall.
    return np.where(bits & 0x8000, bits, 0x7FFF - bits).astype(np.uint16)


def _sort(source: Source, count: int, into: Columns) -> NDArray[np.int64]:
    """Lay columns in order of their keys, equal ones as they come; returns where each key starts.

    source: gives, twice alike, blocks of keys [m] below `count` and of columns [m].
    """
    starts = np.zeros(count + 1, np.int64)
    for keys, _ in source():
        starts[1:] += np.bincount(keys, minlength=count)
    np.cumsum(starts, out=starts)
    free = starts[:-1].copy()
    for keys, columns in source():
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=count)
        # The i-th of a block with a key goes i places behind the first free one of that key.
        first = np.cumsum(counts) - counts
        target = np.repeat(free - first, counts) + np.arange(len(keys))
        for column, values in zip(into, columns, strict=True):
            column[target] = values[order]
        free += counts
    for column in into:
        if isinstance(column, np.memmap):
            column.flush()
    return starts


def _new(file: Path, kind: np.dtype[Any], count: int) -> np.memmap[Any, Any]:
    allocate(file, kind, (count,))
    return mapped(file, "r+")
