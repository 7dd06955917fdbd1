"""An unpickler that builds tensors, arrays of numbers, containers and settings, nothing else.

A pickle may call what it gets by a name and may change it, and numpy believes whatever a pickle
says of a type, even that bytes are pointers. So a name stands for an object of this module that
cannot be changed, or for a class written in C, which takes no attributes; arrays and numbers are
built here from their bytes.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PLAIN = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    bool,
    slice,
    range,
)
NUMBERS = re.compile(r"f[248]|[iu][1248]|b1")
"""Types of numpy that become tensors, as its pickles name them."""
CORES = ("numpy.core", "numpy._core")
"""Before and since numpy 2."""


class Foreign:
    """Stands for any other object; takes what its pickle says of it."""

    def __new__(cls, *_: object, **__: object) -> Foreign:
        """Takes any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Nothing is kept."""

    def __call__(self, *_: object, **__: object) -> Foreign:
        """Where the object was a function."""
        return self

    def _nothing(self, *_: object) -> None:
        """Takes state, items and elements."""

    __setstate__ = __setitem__ = append = extend = add = _nothing


class Call:
    """A function that a pickle may call; wrapped, so that its attributes cannot be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        """Refuses a state."""
        raise pickle.UnpicklingError("it changes a function")


class Namespace(argparse.Namespace):
    """Stands for `argparse.Namespace`; the class itself takes no attributes from a pickle."""

    def __setstate__(self, state: object) -> None:
        """Takes the arguments."""
        if isinstance(state, dict):
            self.__dict__.update(state)


class Kind:
    """Stands for `numpy.dtype` of numbers; a pickle may add the order of the bytes alone."""

    __slots__ = ("of",)

    def __init__(self, name: object = None, *_: object) -> None:
        self.of = np.dtype(name) if isinstance(name, str) and NUMBERS.fullmatch(name) else None

    def __setstate__(self, state: object) -> None:
        """Takes the order of bytes; flags, fields and sizes are passed over."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if self.of is not None and order in ("<", ">"):
            self.of = self.of.newbyteorder(order)


class Array:
    """Stands for `numpy.ndarray` while a file is read; see `as_tensors`."""

    __slots__ = ("numbers",)

    def __init__(self, *_: object) -> None:
        self.numbers: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        """Takes shape, type, order and bytes."""
        if isinstance(state, tuple) and len(state) == 5:
            _, shape, kind, fortran, raw = state
            self.numbers = _numbers(raw, kind, shape, "F" if fortran else "C")


class InertUnpickler(pickle.Unpickler):
    """Every name that is not known becomes a class that does nothing."""

    foreign: list[str]
    """Collects those names."""

    def find_class(self, module: str, name: str, /) -> Any:
        """What a name in the pickle stands for; nothing is imported."""
        # As Python 2 called it, and protocol 2 does.
        module = "builtins" if module == "__builtin__" else module
        if (known := _KNOWN.get((module, name))) is not None:
            return known
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        self.foreign.append(f"{module}.{name}")
        return type(name, (Foreign,), {"__module__": module})


def unpickle(file: Path) -> Any:
    """What a pickle holds: containers, text, numbers, and arrays of numbers as tensors.

    Raises UnpicklingError for what else; damaged files raise almost anything.
    """
    refused: list[str] = []

    class Inert(InertUnpickler):
        foreign = refused

    with file.open("rb") as stored:
        content = Inert(stored, encoding="latin1").load()  # some were written by Python 2
    if refused:
        raise pickle.UnpicklingError(f"'{refused[0]}' is refused")
    return as_tensors(content)


def as_tensors(tree: Any) -> Any:
    """Arrays of numbers in nested dictionaries as tensors; other arrays are passed over."""
    if isinstance(tree, dict):
        return {name: as_tensors(value) for name, value in tree.items()}
    if isinstance(tree, Array):
        return Foreign() if tree.numbers is None else torch.from_numpy(tree.numbers)
    return tree


def _numbers(raw: object, kind: object, shape: Any, order: Any) -> np.ndarray | None:
    """A new array in this machine's order of bytes; None for no numbers. Raises ValueError."""
    # Bytes of Python 2 were read with that encoding.
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(kind, Kind) or kind.of is None or not isinstance(raw, (bytes, bytearray)):
        return None
    array = np.frombuffer(raw, kind.of).reshape(shape, order=order)
    return array.astype(kind.of.newbyteorder("="))


def _scalar(kind: object = None, raw: object = None) -> Any:
    """Numbers of numpy: published checkpoints keep learning rates as such."""
    number = _numbers(raw, kind, (), "C")
    return Foreign() if number is None else number.item()


def _from_buffer(raw: object, kind: object, shape: object, order: object, *_: object) -> Array:
    """As protocol 5 writes arrays."""
    array = Array()
    array.numbers = _numbers(raw, kind, shape, order)
    return array


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Tensor:
    """A tensor in a storage; gradients and hooks are passed over."""
    if len(others) > 2 and others[2]:
        raise pickle.UnpicklingError("it marks a tensor as conjugate or negative")
    return _REBUILD(storage, offset, size, stride)


def _parameter(tensor: Any, *_: object) -> Any:
    return tensor


def _latin(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, as old pickles write them."""
    return text.encode("latin1")


def _known_names() -> dict[tuple[str, str], Any]:
    known: dict[tuple[str, str], Any] = {("builtins", kind.__name__): kind for kind in PLAIN}
    known |= {("collections", kind.__name__): kind for kind in (OrderedDict, defaultdict)}
    known |= {("collections", "Counter"): dict, ("argparse", "Namespace"): Namespace}
    known |= {
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("_codecs", "encode"): Call(_latin),
    }
    known |= {
        ("torch._utils", name): Call(_tensor) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")
    }
    known |= {("torch._utils", "_rebuild_parameter"): Call(_parameter)}
    known |= {("numpy", "dtype"): Kind, ("numpy", "ndarray"): Array}
    for core in CORES:
        known[f"{core}.multiarray", "scalar"] = Call(_scalar)
        known[f"{core}.multiarray", "_reconstruct"] = Array
        known[f"{core}.numeric", "_frombuffer"] = Call(_from_buffer)
    return known


_REBUILD = getattr(import_module("torch._utils"), "_rebuild_tensor")  # noqa: B009 - torch exports no public one
_KNOWN = _known_names()
ALLOWED: list[Any] = [
    argparse.Namespace,
    (Kind, "numpy.dtype"),
    *((_KNOWN[f"{core}.multiarray", "scalar"], f"{core}.multiarray.scalar") for core in CORES),
]
"""What torch's own restricted unpickler is told, for arguments and for numbers of numpy."""
