"""Masks of objects as COCO's format has them: polygons and run lengths, to bitmaps and back.

Run lengths count pixels down the columns: those before the object, of it, after it, and so on.
Written as text, each is five bits a letter, and from the fourth on less the one two before it.
Polygons are drawn and text is written by the library that computes average precision, so that its
masks and ours are the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.errors import MissingExtra

_LAST, _MORE, _SIGN = 0x1F, 0x20, 0x10


def library() -> Any:
    """faster_coco_eval. Raises MissingExtra."""
    try:
        return import_module("faster_coco_eval")
    except ImportError:
        raise MissingExtra("faster-coco-eval", "dense") from None


def bitmap(segmentation: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels of an object, uint8 [H, W] of 0 and 1; overlapping polygons are one.

    Args:
        segmentation: polygons [x, y, x, y, ...], or {"size": [H, W], "counts": numbers or text}.
        size: height and width of the image.

    Raises:
        ValueError: run lengths of another size.
        MissingExtra: for polygons without the library.
    """
    height, width = size
    if isinstance(segmentation, dict):
        runs = run_lengths(segmentation["counts"])
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"runs of {runs.sum()} pixels for {height} x {width}")
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return np.ascontiguousarray(flat.reshape(width, height).T, np.uint8)
    mask = library().mask
    runs = mask.merge(mask.frPyObjects(segmentation, height, width))
    return np.ascontiguousarray(mask.decode(runs))


def run_lengths(counts: str | bytes | list[int]) -> NDArray[np.int64]:
    """Lengths of the runs, int64, from numbers or from text. Raises ValueError for other text."""
    if not isinstance(counts, str | bytes):
        return np.asarray(counts, np.int64).reshape(-1)
    text = counts.encode() if isinstance(counts, str) else counts
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > (_MORE | _LAST) or groups[-1] & _MORE:
        raise ValueError("no run lengths")
    ends = np.flatnonzero((groups & _MORE) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 11:  # 60 bits
        raise ValueError("a run length of more than 60 bits")
    values = np.add.reduceat((groups & _LAST) << (5 * place), starts)
    values -= ((groups[ends] & _SIGN) != 0).astype(np.int64) << (5 * (ends - starts + 1))
    for first in (1, 2):  # sums of every second one; the first three stand as they are
        values[first::2] = np.cumsum(values[first::2])
    return values


def encoded(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Masks [k, H, W] as run lengths in text, for files of results. Raises MissingExtra."""
    if not len(masks):
        return []
    columns = np.asfortranarray(masks.transpose(1, 2, 0), np.uint8)
    return [
        {"size": list(masks.shape[1:]), "counts": _text(found["counts"])}
        for found in library().mask.encode(columns)
    ]


def _text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def segmentation_area(segmentation: Any) -> float:
    """Pixels that polygons or run lengths enclose, without drawing them.

    Of polygons that overlap each counts. Raises ValueError as `run_lengths`.
    """
    if isinstance(segmentation, dict):
        return float(run_lengths(segmentation["counts"])[1::2].sum())
    area = 0.0
    for polygon in segmentation:
        x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return float(area)
