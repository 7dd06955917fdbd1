"""Files that are whole or absent, whenever the process dies."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ibot.errors import ResourceError, UserError, WeightsError
from ibot.system.places import DISK_FULL
from ibot.system.portable import sync

_GONE = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO)
"""What a write into an open file meets on a disk that was taken away or became read-only."""
_DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What torch raises for files that are cut or altered."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file as a whole, or leave the old one as it is.

    Args:
        path: the file.
        write: writes the new content into the file beside it that it is given.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        with replacing(path) as temporary:
            write(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_disk_full(error):
            raise disk_full(path.parent) from None
        raise


def write_named(path: Path, write: Callable[[Path], object], option: str = "") -> None:
    """Write a file that a user named, whole or not at all; folders above it are made.

    Devices and links are written as they are: what stands in their place would be another thing.

    Args:
        path: the file.
        write: writes the content into the place that it is given, whatever its suffix.
        option: of the command, by which another place is named.

    Raises:
        ResourceError: the disk is full. UserError: the file cannot be written.
    """
    plain = not os.path.lexists(path) or (path.is_file() and not path.is_symlink())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) if plain else nullcontext(path) as place:
            write(place)
    except OSError as error:
        kind = ResourceError if error.errno in DISK_FULL else UserError
        raise kind(
            f"'{path}' cannot be written",
            why=error.strerror or str(error),
            fix=f"name another place with {option}" if option else "name another",
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The place of a new file, which replaces `path` as a whole when the block ends well."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_state(path: Path, belongs_to: Path | None = None) -> Any:
    """Tensors and plain values that `torch.save` wrote, on the CPU; nothing is executed.

    Args:
        path: the file.
        belongs_to: the folder that is of no use without the file, if it is part of one.

    Raises:
        WeightsError: the file is damaged.
    """
    import torch  # here, as commands that write tables need none of it

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        what = f"the folder '{belongs_to}'" if belongs_to else "it"
        raise WeightsError(
            f"'{path}' cannot be read",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix=f"delete {what} and run the same command: it starts again",
        ) from None


def sha256_of(path: Path) -> str:
    """SHA-256 of what a file holds, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: Exception) -> bool:
    """Whether a failed write was refused for lack of space."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    # torch and safetensors report a failed write as their own errors, with the system's words
    # inside.
    text = str(error).lower()
    return any(
        words in text
        for words in ("no space left", "os error 28", "quota", "unexpected pos", "file too large")
    )


def lost(folder: Path, error: OSError) -> Exception:
    """The error for a folder that could be written before and no longer can; `error` itself if it
    is of something else.

    Args:
        folder: what is being written.
        error: what the system said.
    """
    inside = error.filename is not None and folder in (
        Path(error.filename),
        *Path(error.filename).parents,
    )
    if not inside and not (error.filename is None and error.errno in _GONE):
        return error
    return ResourceError(
        f"the folder '{folder}' can no longer be written",
        why=f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror),
        fix="see whether it was moved or removed, and whether its disk is there and writable; the "
        "same command goes on from the last checkpoint in it",
    )


def disk_full(folder: Path, needed: str = "", resumes: str = "") -> ResourceError:
    """The error for a full disk: what is free, and what the remedy leads to.

    Args:
        folder: what is being written.
        needed: what takes how much, if that is known.
        resumes: what the same command does once there is space, if it is more than to run again.
    """
    free = f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB are free"
    return ResourceError(
        f"the disk of '{folder}' is full",
        why=f"{needed}, {free}" if needed else free,
        fix="free some space, then run the same command" + (f": {resumes}" if resumes else ""),
    )
