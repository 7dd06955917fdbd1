"""What Pillow, libtiff and tifffile warn of and log, withheld while a file is read."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from PIL import Image

from ibot.system.process_state import ignored_warnings

_LOUD = [logging.getLogger(name) for name in ("PIL.TiffImagePlugin", "tifffile")]
"""The readers that log errors."""


@contextmanager
def quiet() -> Iterator[None]:
    """Within it this thread shows no Python warnings and no errors that readers log; others do.

    From then on libtiff writes nothing to the error output of this process.
    """
    _hush_libtiff()
    unheard = _OtherThreads()
    for reader in _LOUD:
        reader.addFilter(unheard)
    try:
        with ignored_warnings():
            yield
    finally:
        for reader in _LOUD:
            reader.removeFilter(unheard)


@cache
def _hush_libtiff() -> None:
    """Libtiff writes a line or two for each damaged strip, past Python, to the error output; what
    Pillow raises then says that the file is damaged. Where its functions cannot be had, as in a
    Pillow that holds it inside of itself, it goes on writing.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(Image.core.__file__)
        for kind in ("Error", "Warning"):
            replace = getattr(library, f"TIFFSet{kind}Handler")
            replace.argtypes, replace.restype = [ctypes.c_void_p], ctypes.c_void_p
            replace(None)


class _OtherThreads(logging.Filter):
    """Passes the records of all threads but the one that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        return record.thread != self.thread
