"""Why one of several processes ended, as it is told to the others, printed and kept."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ibot.errors import INTERRUPTED, IbotError, ResourceError


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a process ends, and with which exit code all others do."""

    rank: int
    host: str
    code: int
    what: str
    why: str = ""
    fix: str = ""

    @property
    def text(self) -> str:
        """As it is printed."""
        return str(IbotError(self.what, why=self.why, fix=self.fix))

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        """What an exception says to the other processes."""
        host = socket.gethostname()
        if isinstance(error, IbotError):
            return cls(rank, host, error.exit_code, error.what, error.why, error.fix)
        if isinstance(error, KeyboardInterrupt):
            return cls(rank, host, INTERRUPTED, "interrupted")
        return cls(rank, host, 1, f"{type(error).__name__}: {error}".removesuffix(": "))

    @classmethod
    def without_a_word(cls, rank: int, host: str) -> Failure:
        """Of a process whose connection broke."""
        error = ResourceError(
            "a process was ended from outside",
            why="most often the system does that when memory runs out",
            fix="train.accumulate=2, fewer system.workers, or smaller batches; see also the log of "
            "that machine",
        )
        return cls(rank, host, error.exit_code, error.what, error.why, error.fix)
