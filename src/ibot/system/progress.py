"""Progress of a part of the work on the error output; results may be read by programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

Progress = Callable[[int, int], None]
"""Called with what is done and in all."""
Counter = Progress | None
"""None where nothing is shown."""

LINE_SECONDS = 30
"""Between two lines of progress where there is no terminal."""


def counter(name: str) -> Progress:
    """Called with what is done and in all, it shows both and the time left.

    One line on a terminal, a line now and then elsewhere.
    """
    began = shown = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal first, shown
        now, terminal = time.monotonic(), sys.stderr.isatty()
        first = done if first is None else first
        if not terminal and now - shown < LINE_SECONDS:
            return
        shown = now
        words = f"{name}: {done}/{total}"
        if done > first or done >= total:
            left = (now - began) / max(1, done - first) * (total - done)
            words += f"  left {int(left) // 60}:{int(left) % 60:02d}"
        end = "\n" if not terminal or done >= total else ""
        print(f"\r{words:<60}" if terminal else words, end=end, file=sys.stderr, flush=True)

    return show


def no_progress(done: int, total: int) -> None:
    """Shows nothing."""


def no_counter(name: str) -> None:
    """In the place of `counter` where nothing is shown."""


def print_notes(notes: Iterable[str], quiet: bool) -> None:
    """What a user should know of the images."""
    for note in () if quiet else notes:
        print(f"note: {note}", file=sys.stderr)
