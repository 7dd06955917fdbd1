"""What belongs to the whole process is used without a trace, in any thread."""

from __future__ import annotations

import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ibot.system.portable import signals


@contextmanager
def ignored_warnings(category: type[Warning] = Warning, message: str = "") -> Iterator[None]:
    """Ignore this thread's warnings of `category` whose text begins with the pattern `message`.

    Not `warnings.catch_warnings`: that puts the whole list of filters back, so that of two threads
    whose blocks overlap the one that leaves last brings back the filters of the other, for ever.
    """
    entry: Any = ("ignore", _OfThisThread(message), category, None, 0)
    inserted: Any = warnings.filters
    inserted.insert(0, entry)
    try:
        yield
    finally:
        current: Any = warnings.filters
        # Two lists where somebody entered or left `catch_warnings` meanwhile.
        for filters in [inserted] if current is inserted else [inserted, current]:
            with suppress(ValueError):
                filters.remove(entry)


class _OfThisThread:
    """In the place of a filter's pattern: it matches in the thread that made it alone."""

    def __init__(self, message: str) -> None:
        self.thread, self.pattern = threading.get_ident(), re.compile(message, re.IGNORECASE)

    def match(self, text: str) -> bool:
        """As of a pattern."""
        return threading.get_ident() == self.thread and self.pattern.match(text) is not None


@contextmanager
def loaders_forgotten() -> Iterator[None]:
    """Loader processes started inside leave no handler of SIGCHLD behind, as torch's would."""
    before = {number: signal.getsignal(number) for number in signals("SIGCHLD")}
    try:
        yield
    finally:
        here = threading.current_thread() is threading.main_thread()
        for number, handler in before.items():
            if not here or handler is None or signal.getsignal(number) is handler:
                continue
            signal.signal(number, handler)
            # The next loader of the caller is to install it again.
            module: Any = sys.modules.get("torch.utils.data._utils.signal_handling")
            if hasattr(module, "_SIGCHLD_handler_set"):
                module._SIGCHLD_handler_set = False
