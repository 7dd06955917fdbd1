"""Loader processes: how many memory allows, what they say when stuck or failing, how they end."""

from __future__ import annotations

import logging
import math
import multiprocessing.queues
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ibot.errors import IbotError, ResourceError
from ibot.system import portable
from ibot.system.machine import local_world_size

log = logging.getLogger("ibot")

SHARED = Path("/dev/shm")
"""Where loader processes lay what the training process reads."""
BESIDE = 1.1, 2**16
"""What masks and whole pages add to the bytes of views: a factor, and bytes."""
PATIENCE = 60.0
"""Seconds without data after which it is said, again and again, what is being waited for."""
WITHOUT = "read without loader processes: system.workers=0 (evaluations: --workers 0)"
_STATES = {
    "D": "waits for a disk or a network folder",
    "T": "is stopped",
    "R": "is computing",
    "S": "sleeps",
}


def read_items(
    dataset: Dataset[Any],
    workers: int,
    num_bytes: int,
    *,
    ahead: int = 2,
    held: int = 2,
    pin: bool = False,
    **grouping: Any,
) -> Iterator[Any]:
    """What a dataset gives, in order; read ahead by loader processes if there are any.

    Args:
        dataset: errors of ours that it returns are raised here: a worker would bury them in its own
            traceback.
        workers: loader processes; 0: read in this one.
        num_bytes: of the tensors of one item.
        ahead: items that each worker keeps ready. Where shared memory lacks the room there are
            fewer, which is said.
        held: items that this process keeps at a time, the one that it waits for included.
        pin: lay items into page-locked memory, for copies to a GPU beside the step.
        **grouping: sampler, batch_size and such, as `DataLoader` has them.

    Raises:
        ResourceError: shared memory is too small or full, or workers cannot be started or heard.
    """
    if workers:
        workers, ahead = fitting(workers, ahead, num_bytes, held)
    loader = DataLoader(
        dataset,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        generator=torch.Generator(),  # or the loader draws from torch's own, which is the caller's
        multiprocessing_context=portable.START_METHOD if workers else None,
        **grouping,
    )
    items = _started(loader)
    processes = getattr(items, "_workers", [])
    waiting = _Waiting([process.pid for process in processes])
    try:
        while True:
            waiting.since = time.monotonic()
            item = next(items, waiting)
            waiting.since = None
            if item is waiting:
                return
            if isinstance(item, IbotError):
                raise item
            yield item
    finally:
        waiting.done.set()
        for process in processes:
            # One that is stopped may hold a lock for which the shutdown would wait for ever.
            if process.is_alive():
                portable.go_on(process.pid)
        if processes:
            items._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]
        for process in processes:
            process.kill()  # one that waits for a disk has obeyed nothing else


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    try:
        return iter(loader)
    except OSError as error:  # no place for semaphores, no process left, no memory
        raise ResourceError(
            f"{loader.num_workers} loader processes cannot be started",
            why=f"{error.strerror or error}; {_room()}",
            fix=f"fewer of them, or {WITHOUT}",
        ) from None


def fitting(workers: int, ahead: int, num_bytes: int, held: int) -> tuple[int, int]:
    """Workers, and items each may keep ready, that fit into shared memory beside `held` ones.

    Raises ResourceError where it has none for a single one.
    """
    free = shared_memory()
    if free is None:
        return workers, ahead
    share = free // local_world_size()
    item = int(num_bytes * BESIDE[0]) + BESIDE[1]
    room = share // item - held
    if room >= workers * ahead:
        return workers, ahead
    wanted = (
        "docker run "
        f"--shm-size={math.ceil((workers * ahead + held) * item * (free / max(1, share)) / 2**30)}g"
    )
    sizes = f"{_mib(share)} of {SHARED} are free for a process, a micro-batch takes {_mib(item)}"
    if room < 1:
        raise ResourceError(
            f"the shared memory ({SHARED}) is too small for loader processes",
            why=f"{sizes}, {held + 1} are there at a time",
            fix=f"{wanted}, a smaller batch, or {WITHOUT}",
        )
    fewer = min(workers, room)
    log.warning(
        "note   %s: %d loader processes read %d ahead each, not %d read %d; %s",
        sizes,
        fewer,
        room // fewer,
        workers,
        ahead,
        wanted,
    )
    return fewer, room // fewer


def shared_memory() -> int | None:
    """Bytes of shared memory that are free; None where that is not known."""
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:
        return None


def _room() -> str:
    free = shared_memory()
    return f"there is no {SHARED}" if free is None else f"{_mib(free)} of {SHARED} are free"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"


def _start_worker(_: int) -> None:
    # Schedulers and terminals signal every process of a job. Only the main process decides what
    # that means: a worker that dies of it stops the run before it is saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    portable.obey_parent_alone(os.getppid())
    torch.set_num_threads(1)
    # Python drops what cannot be sent, and the main process would wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_reason  # pyright: ignore


def _send_reason(queue: Any, error: Exception, item: tuple[int, object]) -> None:
    """Send, in the place of an item, why it cannot be sent."""
    if "shared memory" in str(error):
        what, fix = (
            f"the shared memory ({SHARED}) is full",
            f"docker run --shm-size=8g, fewer workers, or {WITHOUT}",
        )
    else:
        what, fix = (
            "a loader process cannot hand over what it read",
            f"see TMPDIR and ulimit -n, or {WITHOUT}",
        )
    queue.put(
        (item[0], ResourceError(what, why=f"{str(error).splitlines()[0]}; {_room()}", fix=fix))
    )


class _Waiting:
    """Says what is waited for, from a thread of its own, whenever that takes long."""

    def __init__(self, workers: Sequence[int]) -> None:
        """workers: process numbers; none: this process itself reads."""
        self.since: float | None = None
        """When the waiting began; None: there is none."""
        self.done = threading.Event()
        self.workers = workers or [os.getpid()]
        self.before = set(_open_files(os.getpid()))
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        told: tuple[float | None, int] = (None, 0)
        while not self.done.wait(PATIENCE / 4):
            since = self.since
            if since is None:
                continue
            times = int((time.monotonic() - since) / PATIENCE)
            if times and told != (since, times):
                told = since, times
                log.warning("no images for %d s: %s", time.monotonic() - since, self._doing())

    def _doing(self) -> str:
        """What each process that reads is doing; idle ones are left out beside others."""
        said = {}
        for number in self.workers:
            files = [file for file in _open_files(number) if file not in self.before]
            opened = f", '{files[-1]}' is open" if files else ""
            state = _state(number)
            said[number] = (
                f"process {number} {_STATES.get(state, 'reads')}{opened}",
                state != "S" or opened,
            )
        busy = [words for words, is_busy in said.values() if is_busy]
        return "; ".join(busy or [words for words, _ in said.values()])


def _state(number: int) -> str:
    """A letter for what a process is doing, as in `ps`; empty where the system does not tell."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _open_files(number: int) -> list[str]:
    """Files that a process has open, by their descriptors; none where the system does not tell."""
    files = []
    with suppress(OSError):
        for link in sorted(Path(f"/proc/{number}/fd").iterdir(), key=lambda link: int(link.name)):
            with suppress(OSError):  # closed since
                files.append(str(link.readlink()))
    return [
        file
        for file in files
        if file.startswith("/") and not file.startswith(("/dev/", "/proc/", "/memfd:"))
    ]
