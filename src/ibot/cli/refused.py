"""What the system refuses - places, space, memory - as errors with a remedy."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
from pathlib import Path

from ibot.errors import IbotError, ResourceError, UserError
from ibot.system.places import DISK_FULL

PLACES = {
    "run_folder": "--run",
    "out": "--out",
    "to": "--to",
    "cache": "--cache",
    "json": "--json",
    "html": "--html",
    "csv": "--csv",
    "markdown": "--markdown",
    "plot": "--plot",
    "data": "--data",
    "val_data": "--val-data",
    "weights": "WEIGHTS",
    "init": "--init",
}
"""Attributes of the options that name files and folders, with what a user calls them."""
READ = ("--data", "--val-data", "WEIGHTS", "--init")
"""Those that are only read."""
REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EEXIST,
    errno.EINVAL,
    errno.ENODEV,
    errno.ENXIO,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ESTALE,
)
"""What the system says of places that cannot be used; anything else may be a mistake of ours."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
"""What torch and the system say of memory that is exhausted, in small letters."""


def refusal(error: OSError, options: argparse.Namespace) -> IbotError | None:
    """What the system refuses, as an error with a remedy; None for what may be our mistake."""
    why = error.strerror or str(error)
    if "usable temporary directory" in why:
        return UserError(
            "there is no folder for temporary files",
            why=why,
            fix="set TMPDIR to one that can be written",
        )
    if error.errno in DISK_FULL:
        where = f"the disk of '{os.fsdecode(error.filename)}'" if error.filename else "a disk"
        return ResourceError(
            f"{where} is full", why=why, fix="free some space, or name a folder on another disk"
        )
    if not isinstance(error.filename, str | bytes):
        return None
    place = Path(os.fsdecode(error.filename))
    if error.errno not in REFUSED and not (
        error.errno == errno.ENOENT and _not_made(place, options)
    ):
        return None
    option = _option_of(place, options)
    fix = (
        f"name another with {option}"
        if option
        else f"see who may use it: ls -ld {shlex.quote(str(place))}"
    )
    return UserError(f"'{place}' cannot be used", why=why, fix=fix)


def _not_made(place: Path, options: argparse.Namespace) -> bool:
    """Whether `place` belongs to what an option names for writing, and that is not there.

    Some folders, those of /proc among them, say of a new file or folder that it does not exist.
    """
    written = (getattr(options, name, "") for name, flag in PLACES.items() if flag not in READ)
    named = (Path(os.path.expanduser(value)) for value in written if value)  # noqa: PTH111 - as below
    return any(path in (place, *place.parents) and not path.exists() for path in named)


def _option_of(place: Path, options: argparse.Namespace) -> str:
    """The option that names `place`, a folder above it or a file beside it.

    Else it is the one whose default it may be.
    """
    given = {
        flag: getattr(options, name) for name, flag in PLACES.items() if hasattr(options, name)
    }
    for flag, value in given.items():
        # What can be read is not to be written: a run keeps its results in its own folder, unless
        # --out is given.
        if not value or (flag in READ and os.access(place, os.R_OK)):
            continue
        named = Path(os.path.expanduser(value))  # noqa: PTH111 - of nobody it leaves as it is, and raises nothing
        if (
            named in (place, *place.parents)
            or place in named.parents
            or place.parent == named.parent
        ):
            return flag
    return next((flag for flag in ("--run", "--out") if flag in given and not given[flag]), "")


def lack(error: BaseException) -> ResourceError | None:
    """What a lack of memory looks like, as an error with a remedy; None for a mistake of ours."""
    words = str(error)
    # torch raises this wherever the main process is when the system kills one of its workers.
    if "DataLoader worker" in words and ("killed" in words or "exited unexpectedly" in words):
        return ResourceError(
            "a loader process was killed",
            why=words.splitlines()[0],
            fix="usually the system ran out of memory, with a bus error out of /dev/shm (docker "
            "run --shm-size=8g): fewer workers (system.workers, --workers), or smaller batches",
        )
    if "Too many open files" in words:
        return ResourceError(
            "too many open files",
            why=words.splitlines()[0][:200],
            fix="ulimit -n 65536, or 0 workers",
        )
    if isinstance(error, MemoryError) or any(said in words.lower() for said in OUT_OF_MEMORY):
        return ResourceError(
            "out of memory",
            why=words.splitlines()[0][:200] if words else "",
            fix="train.accumulate=2 (or 4) takes less memory, at the same loss of the paper; or "
            "lower train.batch",
        )
    return None
