"""A zarr array of many images, formats 2 and 3, read by index."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets.fingerprints import file_state
from ibot.data.sets.parts import quoted
from ibot.errors import DataError, MissingExtra

_METADATA = ("zarr.json", ".zarray", ".zgroup")
_CODE = re.compile(r'"(numcodecs\.)?pickle"')
"""A codec that would run what a file says."""


@dataclass(frozen=True, slots=True, eq=False)
class ZarrStack:
    """What the metadata of a zarr array say."""

    name: str
    """Relative to the root of the set."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()

    def entry(self, root: Path, index: int) -> NDArray[Any]:
        """A copy of an entry. Raises UnreadableImage."""
        try:
            return np.asarray(_array(str(root / self.name))[index])
        except MissingExtra:
            raise
        except Exception as error:  # codecs raise almost anything on damaged chunks
            words = " ".join(str(error).split())[:100]
            raise UnreadableImage(f"cannot be read: {words or type(error).__name__}") from None

    def state(self, root: Path) -> NDArray[np.int64]:
        """Sizes and times of all files of the array, by their names."""
        walk = sorted(os.walk(root / self.name))
        return file_state(
            os.path.join(folder, name)  # noqa: PTH118 - speed
            for folder, _, names in walk
            for name in sorted(names)
        )


def open_zarr(path: Path, name: str) -> ZarrStack:
    """The metadata of a zarr array in a folder; `name`: relative to the root of the set.

    Raises:
        DataError: a group, a damaged array, one whose values are pickled.
        MissingExtra: zarr is not installed.
    """
    array = _opened(path)
    if not hasattr(array, "shape"):
        inside = quoted(key for key, _ in array.arrays())
        raise DataError(
            f"'{path}' is a zarr group, not an array",
            why=f"its arrays are {inside}",
            fix=f"name one of them, as in {path / 'images'}",
        )
    each = int(array.chunks[0]) if array.chunks else 1
    notes = (
        (
            f"each image of '{path.name}' is read with the {min(each, array.shape[0])} of its "
            "chunk: chunks of one image each are read faster",
        )
        if each > 1
        else ()
    )
    return ZarrStack(name, tuple(array.shape), np.dtype(array.dtype), notes)


def zarr_labels(path: Path) -> NDArray[Any] | None:
    """The array `labels` [N] in the group of an array; None without it. Raises DataError."""
    beside = path.parent / "labels"
    if not any((beside / name).is_file() for name in _METADATA):
        return None
    array = _opened(beside)
    if not hasattr(array, "shape") or array.dtype.kind == "O":
        return None
    try:
        return np.asarray(array[...])
    except Exception as error:  # as below
        raise _unreadable(beside, error) from None


def _opened(path: Path) -> Any:
    """The array or group in a folder. Raises DataError, MissingExtra."""
    try:
        import zarr
    except ImportError:
        raise MissingExtra("zarr", "zarr") from None
    try:
        texts = [path / name for name in _METADATA if (path / name).is_file()]
        if any(_CODE.search(text.read_text(encoding="utf-8")) for text in texts):
            raise ValueError("its values are pickled, and would run code")
        return zarr.open(str(path), mode="r")
    except Exception as error:  # of zarr's, for what is not as it should be
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"'{path}' cannot be read as a zarr array",
        why=" ".join(str(error).split())[:100] or type(error).__name__,
        fix="name the folder of an array, with zarr.json or .zarray",
    )


# What a process remembers holds no files open; forked ones start zarr's threads anew.
@lru_cache(64)
def _array(path: str) -> Any:
    return _opened(Path(path))
