"""Memory that a training frees at the end of a step, kept for the next one."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

TRIM, MAPPED = -1, -3
"""Of glibc's `mallopt`: how much free memory at the end of the heap is given back, and from which
size on a piece is mapped by itself, and so given back when it is freed."""
LARGE = 2**25
"""Pieces of at least 32 MiB go back at once: the largest threshold that glibc itself comes to, so
that the peak is the one it would have had."""
KEPT = 2**30


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it this process keeps up to 1 GiB of what it frees; at the end all goes back.

    Where it goes back in every step, the next one waits for the kernel to clear each page again: 3
    to 5 % of the time of a small network (docs/log.md). Only glibc is told; others do as they do.
    """
    mallopt = _glibc_mallopt()
    if mallopt is None:
        yield
        return
    mallopt(MAPPED, LARGE)
    mallopt(TRIM, KEPT)
    try:
        yield
    finally:
        mallopt(TRIM, 2 * LARGE)  # glibc's own rule, which it follows no more once it was told
        _give_back()


@cache
def _glibc_mallopt() -> Callable[[int, int], int] | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    with suppress(OSError, AttributeError):
        return ctypes.CDLL(None).mallopt
    return None


def _give_back() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
