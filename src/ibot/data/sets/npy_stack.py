"""A .npy file of many images, read by seek."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.sets.fingerprints import file_state
from ibot.errors import DataError
from ibot.words import sides


@dataclass(frozen=True, slots=True, eq=False)
class NpyStack:
    """What the header of a .npy file says."""

    name: str
    """Relative to the root of the set."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns_first: bool
    """Whether the first axis is the fastest, as in Fortran."""
    start: int
    """First byte of the values."""
    notes: tuple[str, ...] = ()

    def entry(self, root: Path, index: int) -> NDArray[Any]:
        """A copy of an entry. Raises UnreadableImage."""
        path, shape = root / self.name, self.shape
        try:
            if self.columns_first:
                how = {"mode": "r", "offset": self.start, "order": "F"}
                return np.array(np.memmap(path, self.dtype, shape=shape, **how)[index])
            count = math.prod(shape[1:])
            with path.open("rb") as file:
                file.seek(self.start + index * count * self.dtype.itemsize)
                values = np.fromfile(file, self.dtype, count)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror or error}") from None
        except ValueError:  # a map beyond the end
            raise UnreadableImage("truncated") from None
        if len(values) < count:
            raise UnreadableImage("truncated")
        return values.reshape(shape[1:])

    def state(self, root: Path) -> NDArray[np.int64]:
        """Size and time of the file."""
        return file_state([str(root / self.name)])


def open_npy(path: Path, name: str) -> NpyStack:
    """The header of a .npy file; `name`: relative to the root of the set.

    Nothing is unpickled, whatever the file holds. Raises DataError for damaged ones.
    """
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, columns_first, dtype = read(file)
            start = file.tell()
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
        raise DataError(f"'{path}' cannot be read as .npy", why=why, fix="save it again") from None
    wanted = start + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and path.stat().st_size < wanted:
        raise DataError(
            f"'{path}' is cut short",
            why=f"{dtype} {sides(shape)} takes {wanted} bytes; it has {path.stat().st_size}",
            fix="copy it again",
        )
    return NpyStack(name, shape, dtype, columns_first, start)
