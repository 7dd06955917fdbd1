"""Standard output and error that may vanish: a closed pipe, a full disk, a lost terminal."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ibot.system.portable import signals


class Output:
    """A text stream that drops what it cannot write.

    After the first failed write `error` says why, and all later text is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` is None where the descriptor was closed before Python started."""
        self.error: OSError | None = None
        if stream is None:
            self.error = OSError(errno.EBADF, "it is closed")
            stream = open(os.devnull, "w")  # noqa: SIM115, PTH123 - as long as the process lives
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text, unknown letters as escapes; returns how many letters there were."""
        self._unless_lost(lambda: self._write(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what is in the buffer."""
        self._unless_lost(self.stream.flush)

    def isatty(self) -> bool:
        """Whether somebody sees the text on a terminal."""
        return self.error is None and self.stream.isatty()

    def _unless_lost(self, action: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except OSError as error:
            self.error = error

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        # A file name that is no UTF-8, or a terminal that knows ASCII only.
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def unwatched() -> Iterator[Output]:
    """Let a command go on whoever stops watching: yields the standard output, whose `error` says if
    it was lost.

    Within, sys.stdout and sys.stderr drop what they cannot write, and SIGHUP is ignored.
    """
    _open_closed_descriptors()
    old = sys.stdout, sys.stderr
    out, err = Output(old[0]), Output(old[1])
    sys.stdout, sys.stderr = out, err  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with without_hangup():
            yield out
    finally:
        sys.stdout, sys.stderr = old
        for output in (out, err):
            output.flush()
            if output.error is not None:
                _silence(output)


@contextmanager
def without_hangup() -> Iterator[None]:
    """Ignore SIGHUP, which says that the terminal is gone, unless it is handled already."""
    ours = [n for n in signals("SIGHUP") if signal.getsignal(n) == signal.SIG_DFL]
    # Other threads can set no handlers.
    try:
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
    except ValueError:
        ours = []
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _silence(output: Output) -> None:
    """Lead a lost stream to nowhere, or its buffer would fail again when Python ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output.fileno())
        os.close(null)


def _open_closed_descriptors() -> None:
    """Lead closed descriptors 0 to 2 to nowhere: the next files would get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
