"""Rows that the cache holds already for images of a set that is new to it: a set that grew, a part
of one, the same images with labels.

Known are images one by one (`KeyedImages`): by path, size and time of their files. Rows that
were computed in another batch may differ from new ones by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ibot.eval.features.entry import CHUNK, DONE, Entry, mapped

K = TypeVar("K")
KEYS = "keys.npy"


def take_known(entries: Mapping[K, Entry], keys: NDArray[np.uint64] | None) -> dict[K, int]:
    """Fill new entries with rows of the same images from others of the cache.

    Args:
        entries: just made, nothing done.
        keys: uint64 [n, 2] of their images, kept for sets to come; None: nothing is known.

    Returns:
        Rows taken, by the name of the entry.
    """
    if keys is None:
        return {}
    taken = {}
    for name, entry in entries.items():
        taken[name] = sum(_take(entry, other, keys) for other in _like(entry))
        np.save(entry.path / KEYS, keys)
    return taken


def _like(entry: Entry) -> Iterator[Path]:
    """Folders of the cache that hold the same feature of other images."""
    for file in sorted(entry.folder.glob(f"*/{KEYS}")):
        about = file.with_name("about.json")
        if file.parent == entry.path or not about.is_file():
            continue
        if _but_images(json.loads(about.read_text())) == _but_images(entry.about):
            yield file.parent


def _but_images(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "images"}


def _take(entry: Entry, other: Path, keys: NDArray[np.uint64]) -> int:
    """Copy the rows that are done there and wanted here; how many."""
    state, theirs = entry.state("r+"), np.load(other / KEYS)
    there = np.flatnonzero(mapped(other / "state.npy", "r") == DONE)
    wanted = np.flatnonzero((state != DONE) & keys.any(axis=1))
    _, mine, found = np.intersect1d(_flat(keys[wanted]), _flat(theirs[there]), return_indices=True)
    source, target = mapped(other / "rows.npy", "r"), entry.rows("r+")
    for start in range(0, len(mine), CHUNK):
        part = slice(start, start + CHUNK)
        target[wanted[mine[part]]] = source[there[found[part]]]
    target.flush()
    state[wanted[mine]] = DONE  # after its row is there
    state.flush()
    return len(mine)


def _flat(keys: NDArray[np.uint64]) -> NDArray[np.void]:
    """Keys uint64 [n, 2] as one value each."""
    return np.ascontiguousarray(keys).view([("a", np.uint64), ("b", np.uint64)])[:, 0]
