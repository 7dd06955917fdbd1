"""Rows that the cache holds already for images of a set that is new to it: a set that grew, a part
of one, the same images with labels.

Known are images one by one (`KeyedImages`): by path and state of their files. Rows that were
computed in another batch may differ from new ones by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ibot.eval.features.entry import CHUNK, DONE, Entry, mapped
from ibot.system.files import replacing

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
        with replacing(entry.path / KEYS) as temporary, temporary.open("wb") as file:
            np.save(file, keys)
    return taken


def _like(entry: Entry) -> Iterator[Path]:
    """Folders of the cache that hold the same feature of other images."""
    for file in sorted(entry.folder.glob(f"*/{KEYS}")):
        if file.parent == entry.path:
            continue
        try:
            about = json.loads(file.with_name("about.json").read_text())
        except (OSError, ValueError):  # deleted meanwhile, or cut short by a full disk
            continue
        if _but_images(about) == _but_images(entry.about):
            yield file.parent


def _but_images(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "images"}


def _take(entry: Entry, other: Path, keys: NDArray[np.uint64]) -> int:
    """Copy the rows that are done there and wanted here; how many.

    None from what was deleted meanwhile or is damaged: all can be computed.
    """
    state = entry.state("r+")
    try:
        theirs, done = np.load(other / KEYS), mapped(other / "state.npy", "r") == DONE
        source = mapped(other / "rows.npy", "r")
    except (OSError, ValueError, EOFError):
        return 0
    if not len(theirs) == len(done) == len(source):
        return 0
    there = np.flatnonzero(done)
    wanted = np.flatnonzero((state != DONE) & keys.any(axis=1))
    _, mine, found = np.intersect1d(_flat(keys[wanted]), _flat(theirs[there]), return_indices=True)
    target = entry.rows("r+")
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
