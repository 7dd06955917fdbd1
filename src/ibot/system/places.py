"""Places that users name for what is written."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from ibot.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a write for which there is no room."""


def user_cache(name: str) -> Path:
    """The folder of one kind of things that can be fetched again, below XDG_CACHE_HOME or ~/.cache.

    Raises UserError for somebody without a home.
    """
    try:
        return expanded(f"~/.cache/ibot/{name}")
    except RuntimeError as error:
        raise UserError(
            "there is no home folder to keep files in",
            why=str(error),
            fix="name a folder that you may write to:  export XDG_CACHE_HOME=DIR",
        ) from None


def expanded(place: str) -> Path:
    """A place with `~` replaced, and `~/.cache` by XDG_CACHE_HOME where that is set.

    Raises RuntimeError for the home of nobody who is known.
    """
    caches, base = "~/.cache/", os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be passed over, by the specification.
    if place.startswith(caches) and os.path.isabs(base):  # noqa: PTH117
        return Path(base, place.removeprefix(caches))
    return Path(place).expanduser()


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written, or made, as far as permissions and the disk tell; leaves
    nothing there.
    """
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def make_writable(folder: Path, name: str = "") -> None:
    """Make a folder and those above it; raises OSError if no file, or not the one called `name`,
    can be written there.

    The error names the folder or the file. Root may write everywhere but on disks that nobody may
    write to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Containers on several hosts have equal numbers of processes.
        probe = folder / f".ibot-{socket.gethostname()}-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except FileExistsError:  # by Python's word: a file or a link to nothing has this name
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    if name and (folder / name).exists() and not os.access(folder / name, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder / name))
