"""One folder of the feature cache: rows of one feature of one set of images, and which are done."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ibot.data.sets.images import Images
from ibot.errors import DataError, ResourceError, UserError
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.views import View
from ibot.system.files import is_disk_full, replacing
from ibot.system.jsonl import append_jsonl, read_jsonl

FORMAT = 2
"""Raised when the meaning of a row changes."""
CHUNK = 16384
"""Rows that are copied at a time."""
TODO, DONE, BAD = 0, 1, 2
"""States of an image."""


@contextmanager
def disk_errors(folder: Path, num_bytes: int = 0) -> Iterator[None]:
    """What the system says of the cache, told to a user; `num_bytes` are to be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if is_disk_full(error):
            raise ResourceError(
                f"no space for features in '{folder}'",
                why=f"{num_bytes} bytes are needed: {why}" if num_bytes else why,
                fix="free some, or name a folder on another disk: --cache DIR",
            ) from None
        raise UserError(
            f"features cannot be kept in '{folder}'",
            why=why,
            fix="name another folder: --cache DIR",
        ) from None


class Entry:
    """One folder of the cache: rows.npy, state.npy, about.json, and `done` once all rows are there.

    Without `done` there may be bad.jsonl, why images could not be read, and readable.npy, the rows
    of the others. With keys.npy a set that holds some of these images takes their rows (`reuse`).
    """

    def __init__(
        self, folder: Path, weights: str, images: Images, view: View, feature: Hashable
    ) -> None:
        self.about = {
            "format": FORMAT,
            "weights": weights,
            "images": images.fingerprint(),
            "view": [*view.size, view.fit, view.interpolation, view.resize, view.keep],
            "feature": str(feature),
        }
        self.folder = folder
        self.path = folder / name_of(self.about)

    def complete(self) -> bool:
        """Whether every row is there."""
        return (self.path / "done").is_file()

    def begun(self) -> bool:
        """Whether its files were made."""
        return (self.path / "about.json").is_file()

    def num_done(self) -> int:
        """Rows that are there."""
        return int((self.state("r") == DONE).sum()) if self.begun() else 0

    def create(self, count: int, width: int, kind: np.dtype[Any]) -> None:
        """Make the files for rows of a type, over what a pass that died here has left."""
        self.path.mkdir(exist_ok=True)
        allocate(self.path / "rows.npy", kind, (count, width))
        allocate(self.path / "state.npy", np.dtype(np.uint8), (count,))
        # Written last: with it the files are whole.
        (self.path / "about.json").write_text(json.dumps(self.about, indent=1))

    def remove(self) -> None:
        """Delete its files."""
        shutil.rmtree(self.path, ignore_errors=True)

    def finish(self) -> None:
        """Say that all is done; or lay the readable rows side by side, unless they lie so."""
        index, readable = np.flatnonzero(self.state("r") == DONE), self.path / "readable.npy"
        rows = self.rows("r")
        with disk_errors(self.folder, rows.itemsize * len(index) * rows.shape[1]):
            if len(index) == len(self.state("r")):
                (self.path / "done").touch()
                readable.unlink(missing_ok=True)
                return
            there = len(mapped(readable, "r")) if readable.is_file() else 0
            # As rows are never lost, as many are the same.
            if there != len(index):
                _copy(rows, index, readable)

    def rows(self, mode: Any) -> np.memmap[Any, Any]:
        """[n, d], mapped."""
        with disk_errors(self.folder):
            return mapped(self.path / "rows.npy", mode)

    def state(self, mode: Any) -> np.memmap[Any, np.dtype[np.uint8]]:
        """uint8 [n], TODO, DONE or BAD for each image, mapped."""
        with disk_errors(self.folder):
            return mapped(self.path / "state.npy", mode)

    def report_bad(self, bad: list[tuple[int, str]]) -> None:
        """Keep why images (position, reason) cannot be read."""
        with disk_errors(self.folder):
            for position, reason in bad:
                append_jsonl(self.path / "bad.jsonl", {"position": position, "reason": reason})

    def forget_bad(self) -> None:
        """Images that could not be read are to be tried again."""
        with disk_errors(self.folder):
            (self.path / "bad.jsonl").unlink(missing_ok=True)

    def read(self, images: Images, cached: bool, known: int) -> FeatureSet:
        """The rows of readable images, of which `known` were there before.

        Raises DataError where there are none.
        """
        state = self.state("r")
        index = np.flatnonzero(state == DONE)
        reasons = {line["position"]: line["reason"] for line in read_jsonl(self.path / "bad.jsonl")}
        bad = [(images.name(i), reasons.get(i, "")) for i in np.flatnonzero(state == BAD).tolist()]
        if not len(index):
            raise DataError(
                f"none of the {len(images)} images under '{images.root}' can be read",
                why=f"the first, '{bad[0][0]}': {bad[0][1]}" if bad else "",
            )
        with disk_errors(self.folder):
            rows = stored(self.path)[0]
        return FeatureSet(torch.from_numpy(rows), index, bad, cached, known=known)


def name_of(about: dict[str, Any]) -> str:
    """The name of the folder of an entry."""
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def stored(path: Path) -> tuple[np.memmap[Any, Any], np.memmap[Any, np.dtype[np.uint8]]]:
    """What the folder of an entry holds after a pass: rows of readable images [n, d], and the state
    of all. Some image must be readable.
    """
    state = mapped(path / "state.npy", "r")
    whole = bool((state == DONE).all())
    # "c": private pages, as torch wants memory that it may write to.
    return mapped(path / ("rows.npy" if whole else "readable.npy"), "c"), state


def mapped(file: Path, mode: Any) -> np.memmap[Any, Any]:
    """An .npy file, mapped; "r": to read, "c": with private pages, "r+": to write."""
    return np.lib.format.open_memmap(file, mode=mode)


def _copy(rows: np.memmap[Any, Any], index: NDArray[np.int64], file: Path) -> None:
    with replacing(file) as temporary:
        allocate(temporary, rows.dtype, (len(index), rows.shape[1]))
        copy = mapped(temporary, "r+")
        for start in range(0, len(index), CHUNK):
            copy[start : start + CHUNK] = rows[index[start : start + CHUNK]]
        copy.flush()


def allocate(file: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Make an .npy file of zeros with its place on the disk: else a mapped write might kill us."""
    np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
        except OSError as error:
            # These say that the file system cannot allocate ahead.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
