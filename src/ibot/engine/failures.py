"""What is kept in the folder of a run when an error ends it, in whichever of its processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ibot.engine.logging import append_line
from ibot.engine.run import EVENTS, LOG, RunFolder
from ibot.errors import INTERRUPTED
from ibot.system.failure import Failure
from ibot.system.processes import Processes
from ibot.system.watch import kept_if_failed

MOST = 200
"""Letters of what an error says of itself, of its first line."""


@contextmanager
def failures_kept(run: RunFolder, processes: Processes, step: Callable[[], int]) -> Iterator[None]:
    """Write what ends the run within to its events and its log, as far as its disk takes it.

    step: where the run stands then.
    """

    def keep(failure: Failure) -> None:
        with suppress(OSError):
            keep_failure(run, processes, step(), failure)

    with kept_if_failed(keep):
        yield


def keep_failure(run: RunFolder, processes: Processes, step: int, failure: Failure) -> None:
    """Write why a run ended to its events and its log. Raises OSError where that cannot be.

    Nothing in a folder that is none of a run: on another machine that of the same name may be.
    """
    if not (run.path / EVENTS).is_file():
        return
    what = next(iter(failure.what.splitlines()), "")[:MOST]
    if failure.code == INTERRUPTED:
        what = "interrupted in the middle of a step"
    run.event(
        "failed",
        step=step,
        what=what,
        why=failure.why,
        fix=failure.fix,
        code=failure.code,
        host=failure.host,
        process=failure.rank,
    )
    named = (f"error: {what}", f"  why:  {failure.why}", f"  fix:  {failure.fix}")
    lines = [
        line for line, said in zip(named, (what, failure.why, failure.fix), strict=True) if said
    ]
    of = f"process {failure.rank} of {processes.world_size} on {failure.host}"
    for line in (*lines, f"  from: {of}"):
        append_line(run.path / LOG, line)
