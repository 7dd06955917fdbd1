"""Where the time of a piece of work went: on the clock, on a core, and in wait of one."""

from __future__ import annotations

import time
from pathlib import Path

# Of a thread on Linux: nanoseconds on a core, nanoseconds ready to run but without one, turns.
SCHEDULED = Path("/proc/thread-self/schedstat")


class Stopwatch:
    """Started when it is made, for the thread that makes it: others send what was made before."""

    def __init__(self) -> None:
        self._lap = time.perf_counter()
        self._busy, self._queued = time.thread_time(), _queued()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        last, self._lap = self._lap, time.perf_counter()
        return self._lap - last

    def busy(self) -> float:
        """Seconds in which the thread computed since the start."""
        return time.thread_time() - self._busy

    def queued(self) -> float:
        """Seconds in which it could have, but others had the cores; 0 where no system tells."""
        return _queued() - self._queued


def _queued() -> float:
    try:
        return int(SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
