"""Where the time of a piece of work went: on the clock, and on the processor."""

from __future__ import annotations

import time


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._lap = time.perf_counter()
        # Of this thread: others of the process send what was made before.
        self._busy = time.thread_time()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        last, self._lap = self._lap, time.perf_counter()
        return self._lap - last

    def busy(self) -> float:
        """Seconds in which this thread computed since the start."""
        return time.thread_time() - self._busy
