"""Work that takes longer than a page waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ibot.errors import IbotError
from ibot.system.progress import Progress

log = logging.getLogger("ibot")

V = TypeVar("V")


class Job(Generic[V]):
    """Something that is made in a thread of its own, and how far it is."""

    def __init__(self, why: str, make: Callable[[Progress], V]) -> None:
        """why: what is being done, in words; make: does it, and tells how far it is."""
        self.why, self._make = why, make
        self.made_of = 0, 0
        self.value: V | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._make(self._told)
        except IbotError as error:
            self.error = error
        except Exception as error:  # told to whoever asks for the value
            log.exception("%s", self.why)
            self.error = error

    def _told(self, done: int, total: int) -> None:
        self.made_of = done, total

    def wait(self, seconds: float) -> None:
        """Return when it is done, or after so long."""
        self._thread.join(seconds)

    @property
    def done(self) -> bool:
        """Whether it has ended, with a value or an error."""
        return not self._thread.is_alive()

    def get(self) -> V | None:
        """The value; None while it is being made. Raises what its making raised."""
        if not self.done:
            return None
        if self.error is not None:
            raise self.error
        return self.value

    def state(self) -> dict[str, Any]:
        """How far it is, for the page."""
        done, total = self.made_of
        return {"state": "computing", "done": done, "total": total, "why": self.why}
