"""Several processes for tests: forked, so that nothing is imported again."""

import multiprocessing
import os
import socket
import sys

SECONDS = 30
"""Within which processes end when one of them failed."""


def addresses(count):
    """Launch variables for `count` processes on this machine, as somebody would export them by
    hand.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [{**meeting, "RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]


def run_forked(work, folder, count=2, seconds=SECONDS):
    """Run `work(rank)` in `count` processes; returns their exit codes and what each wrote to
    stderr.

    `work` returns an exit code. Who does not end in `seconds` is killed and has none.
    """
    context = multiprocessing.get_context("fork")
    launched = addresses(count)
    started = [
        context.Process(target=_child, args=(work, launched[i], folder)) for i in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes, [(folder / f"stderr{rank}").read_text() for rank in range(count)]


def _child(work, launched, folder):
    rank = int(launched["RANK"])
    os.environ.update(launched)
    file = os.open(folder / f"stderr{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - pytest's would keep it
    code = work(rank) or 0
    sys.stderr.flush()
    os._exit(code)
