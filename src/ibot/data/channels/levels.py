"""From the values in a file to levels: ONE rule for each type, by which nothing is clipped.

    uint8, uint16, uint32    v / (2^bits - 1)                        0..1
    int8, int16, int32       (v + 2^(bits - 1)) / (2^bits - 1)       0..1
    bool                     0 or 1
    float16, 32, 64          v

`bits` are those of the type, or fewer where a file declares so (12 of 16). Where the lowest value
is white, a level l becomes 1 - l. NaN, infinity and values that mean "no data" become NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage

LARGEST_WHOLE = 4
"""Bytes of the largest whole type: those of eight have no range by which anybody scales."""


@dataclass(frozen=True, slots=True)
class Levels:
    """An image as its file has it."""

    values: NDArray[np.float32]
    """float32 [H, W, C]; NaN where nothing was measured."""
    names: tuple[str, ...]
    """Of the channels: as the file says, else 1 to C."""


def to_levels(
    values: NDArray[Any], *, bits: int = 0, inverted: bool = False, no_data: Sequence[float] = ()
) -> NDArray[np.float32]:
    """Values of any shape as levels of the same shape, float32; NaN where there is no number.

    Args:
        values: whole numbers of up to 32 bits, floats or bool, in any byte order.
        bits: that whole numbers take of their type; 0: all.
        inverted: the lowest value is white.
        no_data: values that mean that nothing was measured.

    Raises:
        UnreadableImage: another type.
    """
    kind = values.dtype.kind
    if kind not in "buif" or (kind in "ui" and values.dtype.itemsize > LARGEST_WHOLE):
        raise UnreadableImage(
            f"values of type {values.dtype}",
            "whole numbers of up to 32 bits, floats and bool are read",
        )
    levels = _scaled(values, bits)
    if inverted:
        levels = 1 - levels
    if kind == "f":
        with np.errstate(over="ignore"):
            levels = levels.astype(np.float32)  # what is too large for it is no number either
        levels[~np.isfinite(levels)] = np.nan
    else:
        levels = levels.astype(np.float32, copy=False)
    for value in no_data:
        levels[_equal(values, value)] = np.nan
    return levels


def names_of(count: int) -> tuple[str, ...]:
    """Names of channels of which nobody says what they are: 1 to C."""
    return tuple(str(number) for number in range(1, count + 1))


def filled(levels: NDArray[np.float32], mean: Sequence[float]) -> NDArray[np.float32]:
    """Levels [H, W, C] with the mean of their channel [C] where there is no number."""
    invalid = np.isnan(levels)
    if not invalid.any():
        return levels
    return np.where(invalid, np.asarray(mean, np.float32), levels)


def _scaled(values: NDArray[Any], bits: int) -> NDArray[Any]:
    kind = values.dtype.kind
    if kind == "f":
        return np.array(values, values.dtype.newbyteorder("="))  # a copy, which is changed
    if kind == "b":
        return values.astype(np.float32)
    bits = bits or 8 * values.dtype.itemsize
    # float32 holds whole numbers of 24 bits, and divides them as exactly as it can keep the result.
    levels = values.astype(np.float32 if bits < 24 else np.float64)
    if kind == "i":
        levels += 2.0 ** (bits - 1)
    levels /= 2.0**bits - 1
    return levels


def _equal(values: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Where the value stands, in the precision of the type: files declare it as a decimal text."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values == np.asarray(value).astype(values.dtype)
    return values == value
