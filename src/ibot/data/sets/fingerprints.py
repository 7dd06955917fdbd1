"""What fingerprints are made of: hashes of parts, and the state of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIFF_LEVELS = "levels 2"
"""Changed when TIFF files are read to other levels than before, so that what was computed of
those serves no more."""

SETTLED = 2.0
"""Seconds: what changed later than this before it was looked at may change again within one tick of
its clock, and its times are not trusted. File systems count in up to two seconds."""

State = tuple[int, int, int, int]


def state_of(status: os.stat_result) -> State:
    """Size, time of change in ns, of the entry's own change, and inode: by these a folder or an
    archive is known to be as it was.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(states: Iterable[State], began: float) -> bool:
    """Whether none of what was in these states from `began` on, by `time.time()`, may have changed
    since and look the same.
    """
    latest = max((max(state[1], state[2]) for state in states), default=0)
    return latest < (began - SETTLED) * 1e9


def digest(*parts: str | bytes | NDArray[Any]) -> str:
    """SHA-256 in hex of parts that are kept apart."""
    found = hashlib.sha256()
    for part in parts:
        content = os.fsencode(part) if isinstance(part, str) else bytes(part)
        found.update(len(content).to_bytes(8, "little"))  # keeps the parts apart
        found.update(content)
    return found.hexdigest()


def file_state(paths: Iterable[str]) -> NDArray[np.int64]:
    """Size in bytes and time of change in ns, int64 [n, 2]; -1 for files that are not there."""
    states = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - this runs over millions of files
            states.append((status.st_size, status.st_mtime_ns))
        except OSError:
            states.append((-1, -1))
    return np.array(states, np.int64).reshape(-1, 2)


def file_keys(paths: Iterable[str], states: NDArray[np.int64], how: str) -> NDArray[np.uint64]:
    """What names each file in its state int64 [n, 2], read in a way `how`: uint64 [n, 2].

    Zeros for files that are not there.
    """
    keys = np.zeros((len(states), 2), np.uint64)
    for place, (path, (size, changed)) in enumerate(zip(paths, states.tolist(), strict=True)):
        if size >= 0:
            text = os.fsencode(f"{how}\0{size}\0{changed}\0{path}")
            keys[place] = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), np.uint64)
    return keys
