"""Start a command in several processes of this machine, by torch's own elastic launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from ibot.errors import IbotError, ResourceError, UserError
from ibot.system.machine import threads_of_each
from ibot.system.portable import signals
from ibot.system.processes import launched_processes

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server import RunResult

FORWARDED = signals("SIGINT", "SIGTERM", "SIGUSR1")
"""The processes decide what these mean: to save and to end. They have no terminal to hear."""
ENDED = tuple(128 + number for number in FORWARDED)
"""Exit codes of what they ended before it could decide, and of Ctrl-C."""


def run_together(count: int | None, arguments: Sequence[str], command: Callable[[], int]) -> int:
    """Run `command` in this process, or for a `count` above 1 `ibot` in so many new ones.

    Processes that something launched already run the command, and end together. Returns its code.
    """
    launched = launched_processes()
    if launched.world_size > 1:
        from ibot.system.watch import watched

        if count not in (None, launched.world_size):
            raise UserError(
                f"--processes {count} in one of {launched.world_size} processes",
                why="torchrun, srun or their variables RANK and WORLD_SIZE say that these were "
                "started",
                fix="leave --processes out",
            )
        with watched():
            return command()
    return command() if count in (None, 1) else launch(count, arguments)


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `ibot` with `arguments` in `count` processes; returns the exit code of the one that
    failed, else 0.

    Raises ResourceError for a process that the system killed.
    """
    from torch.distributed.elastic.agent.server import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    # The process that fails says why; the launcher's report of it would bury that.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_of_each(count)))
    # Those that end a run are forwarded below.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # local_addr: else they meet at the name of this machine, which need not resolve.
    meeting = RendezvousParameters(
        "c10d", "localhost:0", uuid.uuid4().hex, min_nodes=1, max_nodes=1, local_addr="localhost"
    )
    place = get_rendezvous_handler(meeting)
    spec = WorkerSpec(
        role="ibot",
        local_world_size=count,
        rdzv_handler=place,
        entrypoint=sys.executable,
        # -P: a file of the current folder must not stand in for a module.
        args=("-P", "-m", "ibot", *arguments),
        max_restarts=0,
        monitor_interval=0.1,
    )
    # Without a place for logs it leaves a folder behind.
    agent = LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=os.devnull))

    def started() -> list[int]:
        return [worker.id for worker in agent.get_worker_group().workers if worker.id]

    try:
        with forwarding(started):
            result: Any = agent.run()
            return _exit_code(result)
    finally:
        # A thread of it tells a store every few seconds that it lives. Python's end would stop it
        # within C++, which aborts the whole process.
        place.shutdown()


@contextmanager
def forwarding(started: Callable[[], list[int]]) -> Iterator[list[int]]:
    """Hand signals on to processes, but for that of a lost terminal: they write to files too.

    Yields a list of those that came.

    Args:
        started: their numbers. As long as there are none a signal ends this process.
    """
    heard: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        processes = started()
        if not processes:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in signals("SIGHUP")}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def code_of(who: str, code: int) -> int:
    """The exit code for a process `who` that ended with `code`: negative for a signal.

    Raises ResourceError for a process that the system killed, IbotError for other signals than
    those handed on.
    """
    if code >= 0:
        return code
    if -code in signals("SIGKILL"):
        raise ResourceError(
            f"{who} was killed",
            why="most often the system does that when memory runs out",
            fix="train.accumulate=2, fewer system.workers, smaller batches, or fewer processes",
        )
    if -code not in FORWARDED:
        raise IbotError(f"{who} was ended by {signal.Signals(-code).name}")
    return 128 - code


def _exit_code(result: RunResult) -> int:
    """That of the process that failed: the launcher ends all others with a signal."""
    codes = {rank: failure.exitcode for rank, failure in sorted(result.failures.items())}
    if not codes:
        return 0
    if told := [code for code in codes.values() if code > 0]:
        return told[0]
    rank, code = min(codes.items(), key=lambda item: -item[1] not in signals("SIGKILL"))
    return code_of(f"process {rank}", code)
