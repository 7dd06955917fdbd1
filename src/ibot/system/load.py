"""How much of the cores other processes take, beside which all that is measured is slower."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from ibot.system.portable import cores, ticks
from ibot.system.processes import launched_processes

PROC = Path("/proc")
_BUSY = (0, 1, 2, 5, 6, 7)
"""Places among a core's times: user, nice, system, interrupts (two), stolen by other machines."""
_PARENT, _TIMES = 1, slice(11, 15)
"""Places behind the name in the line of a process: its parent; its times, ended children too."""


class Load:
    """Read again and again: each reading tells of the time since the one before."""

    def __init__(self, proc: Path = PROC) -> None:
        """`proc`: where Linux tells what its processes do; elsewhere nothing is known."""
        self.proc, self.others = proc, 0.0
        self._last = self._now()

    def read(self) -> float:
        """Share of the cores that this process may run on which others took, 0..1.

        0 where no system tells, and in one of several processes that were started together: they
        are no others. A reading that follows the last within a tenth of a second repeats it.
        """
        now = self._now()
        if now is None or self._last is None:
            return 0.0
        seconds, busy, own = (new - old for new, old in zip(now, self._last, strict=True))
        if seconds < 0.1:  # the system counts in hundredths
            return self.others
        self._last = now
        self.others = min(1.0, max(0.0, (busy - own) / (seconds * len(cores()))))
        return self.others

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds on the clock, of the cores at work, and of this process and those below it."""
        if launched_processes().world_size > 1:
            return None
        # A container may be told of other cores than those that it runs on.
        with suppress(OSError, ValueError, LookupError):
            tick = ticks()
            return time.perf_counter(), self._busy() / tick, self._own() / tick
        return None

    def _busy(self) -> int:
        lines = (self.proc / "stat").read_text().splitlines()
        times = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("cpu")}
        return sum(int(times[f"cpu{core}"][place]) for core in cores() for place in _BUSY)

    def _own(self) -> int:
        found = {}
        for folder in self.proc.iterdir():
            if folder.name.isdigit():
                with suppress(OSError):  # it may have ended meanwhile
                    line = (folder / "stat").read_text()
                    found[int(folder.name)] = line.rpartition(")")[2].split()
        own, told = {os.getpid()}, 0
        while told < len(own):
            told = len(own)
            own |= {process for process, line in found.items() if int(line[_PARENT]) in own}
        return sum(sum(map(int, found[process][_TIMES])) for process in own if process in found)
