"""What was made lately, kept up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Kept(Generic[V]):
    """Values by key; those that were asked for longest ago go first. For several threads."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        """limit: bytes in all; size: bytes of a value."""
        self._limit, self._size = limit, size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of `key`, made where it is not there. Raises what `make` raises."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()  # not under the lock: others are to have what is there
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self.bytes += self._size(value)
            while self.bytes > self._limit and len(self._values) > 1:
                _, gone = self._values.popitem(last=False)
                self.bytes -= self._size(gone)
        return value
