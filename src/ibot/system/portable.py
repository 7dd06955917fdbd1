"""What operating systems do not have in common: locks, signals, limits, how processes start.

The rest of the package asks here, so that it needs no module, call or signal that only some systems
have. What a system lacks is left out; each function says what follows. Linux is what this was
written on; that it holds elsewhere is tested by taking away what is not there
(tests/system/test_portable.py), not on the systems themselves.
"""

from __future__ import annotations

import errno
import getpass
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

START_METHOD: str | None = "fork" if sys.platform == "linux" else None
"""How loader processes start; None: as Python does it there, which is to spawn them.

A spawned process imports torch again, for seconds; forked ones never touch the GPU. Only Linux
forks safely.
"""
LOCKED_BYTE = 2**30
"""Of a file, where a system locks bytes, not files: far behind its text, which others may read."""
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What the disks of some clusters say, which know no locks, and systems that lack them."""


def _module(name: str) -> Any:
    """A module of some systems; None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def lock(file: IO[Any] | int, *, shared: bool = False) -> None:
    """Lock an open file until it is closed; does not wait.

    Args:
        file: open for writing unless `shared`; on POSIX it may be the descriptor of a folder.
        shared: others may hold it so too; where a system has no such locks it is an ordinary one.

    Raises:
        BlockingIOError: another process, or another opening of the file, holds it.
        OSError: the file system or the system knows no locks, as `NO_LOCKS` says.
    """
    if posix := _module("fcntl"):
        posix.flock(file, (posix.LOCK_SH if shared else posix.LOCK_EX) | posix.LOCK_NB)
    elif windows := _module("msvcrt"):
        _lock_byte(windows, _descriptor(file))
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which needs no file in it; raises BlockingIOError.

    Where folders cannot be opened or locked there is none: nobody is warned of a second process.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(handle)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


def unlock(file: IO[Any] | int) -> None:
    """Release a lock before the file is closed; a forked process may hold it open."""
    if posix := _module("fcntl"):
        posix.flock(file, posix.LOCK_UN)
    elif windows := _module("msvcrt"):
        _at_byte(_descriptor(file), lambda number: windows.locking(number, windows.LK_UNLCK, 1))


def signals(*names: str) -> tuple[signal.Signals, ...]:
    """Those of these signals that the system has."""
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


def go_on(process: int) -> None:
    """Let a process go on that was stopped, where there is such a thing."""
    for number in signals("SIGCONT"):
        os.kill(process, number)


def obey_parent_alone(parent: int) -> None:
    """In a loader process: SIGTERM ends it if its parent says so, whoever else does; on Linux.

    It must not be ignored, as Python ends workers with it.
    """
    if sys.platform != "linux":
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def obey() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()


def in_forked_child(action: Callable[[], object]) -> None:
    """Let `action` run in every process that is forked from this one."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder where folders can be opened, are on the disk."""
    posix = sys.platform != "win32"
    if not posix and path.is_dir():
        return
    # There a file that is open for reading cannot be flushed.
    handle = os.open(path, os.O_RDONLY if posix else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_user() -> None:
    """Name a user whom the system does not know, as in a container with a number for one.

    torch wants a name.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"uid{os.getuid()}" if hasattr(os, "getuid") else "user"


def is_own(status: os.stat_result) -> bool:
    """Whether nobody else can have written a file; where users have no numbers it counts as
    one's own.
    """
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def cores() -> list[int]:
    """Numbers of the cores on which the system lets this process run."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def ticks() -> int:
    """Units in a second, in which /proc counts; raises OSError where there is no such thing."""
    if not hasattr(os, "sysconf"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.sysconf("SC_CLK_TCK")


def peak_memory() -> float:
    """GiB that this process held at most; nan where the system does not tell."""
    if not (resource := _module("resource")):
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def open_files() -> int | None:
    """How many files this process may have open; None where there is no such limit, or none is
    known.
    """
    if not (resource := _module("resource")):
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _descriptor(file: IO[Any] | int) -> int:
    return file if isinstance(file, int) else file.fileno()


def _lock_byte(windows: Any, descriptor: int) -> None:
    try:
        _at_byte(descriptor, lambda number: windows.locking(number, windows.LK_NBLCK, 1))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EDEADLK, errno.EAGAIN):
            raise
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None


def _at_byte(descriptor: int, action: Callable[[int], object]) -> None:
    """Call with the descriptor at the byte that is locked; then it stands where it stood."""
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        action(descriptor)
    finally:
        with suppress(OSError):
            os.lseek(descriptor, before, os.SEEK_SET)
