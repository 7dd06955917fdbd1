"""What Pillow and tifffile warn of and log, withheld while a file is read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ibot.system.process_state import ignored_warnings

_LOUD = [logging.getLogger(name) for name in ("PIL.TiffImagePlugin", "tifffile")]
"""The readers that log errors."""


@contextmanager
def quiet() -> Iterator[None]:
    """Within it this thread shows no Python warnings and no errors that readers log; others do."""
    unheard = _OtherThreads()
    for reader in _LOUD:
        reader.addFilter(unheard)
    try:
        with ignored_warnings():
            yield
    finally:
        for reader in _LOUD:
            reader.removeFilter(unheard)


class _OtherThreads(logging.Filter):
    """Passes the records of all threads but the one that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        return record.thread != self.thread
