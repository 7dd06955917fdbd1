"""The compiled kernels, where they were built: libraries of C functions beside this file.

And what those need that are compiled when they run.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

INTERFACE = 1
"""Of `views.c`, which says the same: one built from other sources is not called."""
BLOCKS_INTERFACE = 1
"""Likewise of `blocks.c`."""
_IMAGES, _ARRAY = ctypes.c_int64, ctypes.c_void_p
_VIEWS = [ctypes.c_int32, _IMAGES, _ARRAY, _ARRAY, *[ctypes.c_int32] * 2, *[_ARRAY] * 12]
_BLOCKS = [*[ctypes.c_int32] * 4, *[ctypes.c_int64] * 2, _ARRAY]


@cache
def views_function() -> Callable[..., int] | None:
    """`ibot_views` of `views.c`; None where it was not built. Other threads run during a call."""
    return _function("views", INTERFACE, _VIEWS, ctypes.c_int32)


@cache
def blocks_function() -> Callable[..., None] | None:
    """`ibot_blocks` of `blocks.c`; None where it was not built. Other threads run during a call."""
    import torch  # noqa: F401 - brings the OpenMP whose threads the kernels then share

    return _function("blocks", BLOCKS_INTERFACE, _BLOCKS, None)


def has_blocks() -> bool:
    """Whether `blocks.c` was built; told without torch."""
    return find_spec("ibot.kernels._blocks") is not None


@cache
def triton_lacks() -> str:
    """What this machine lacks for kernels in Triton; empty: nothing.

    Triton compiles a little C of its own when a kernel is first called, on the machine itself.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton finds no C compiler (gcc, clang or CC)"
    if not (Path(sysconfig.get_path("include", "posix_prefix")) / "Python.h").is_file():
        return "Triton finds no Python.h: the system's package python3-dev, or another Python"
    return ""


def _function(name: str, interface: int, arguments: list[type], result: type | None):
    spec = find_spec(f"ibot.kernels._{name}")  # Found as a module would be, but never imported.
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        if getattr(library, f"ibot_{name}_interface")() != interface:
            return None
        function = getattr(library, f"ibot_{name}")
    except (OSError, AttributeError):  # of another machine, or another version
        return None
    function.argtypes, function.restype = arguments, result
    return function
