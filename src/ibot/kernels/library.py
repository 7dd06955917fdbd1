"""The compiled kernels, where they were built: a library of C functions beside this file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

INTERFACE = 1
"""Of `views.c`, which says the same: one built from other sources is not called."""
_IMAGES, _ARRAY = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS = [ctypes.c_int32, _IMAGES, _ARRAY, _ARRAY, *[ctypes.c_int32] * 2, *[_ARRAY] * 12]


@cache
def views_function() -> Callable[..., int] | None:
    """`ibot_views` of `views.c`; None where it was not built. Other threads run during a call."""
    spec = find_spec("ibot.kernels._views")  # Found as a module would be, but never imported.
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        if library.ibot_views_interface() != INTERFACE:
            return None
        function = library.ibot_views
    except (OSError, AttributeError):  # of another machine, or another version
        return None
    function.argtypes, function.restype = _ARGUMENTS, ctypes.c_int32
    return function
