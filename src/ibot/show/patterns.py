"""Which patches stand for a word of the tokenizer, and their surroundings (spec_evaluation 10.2).

Functions of arrays alone. A word is the arg-max over the K logits of a patch, its score that logit,
which may be negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

DARK = 40
"""A window whose mean HSV value, 0..255, is not above it is passed over, as published."""
COVER, COVER_ALPHA = (200, 100, 0), 127
"""RGB and opacity, of 255, over the patch in the middle, as published."""
FRAME = (230, 159, 0)
"""RGB of the frame around the patch in the middle, where it is not covered."""


def ranked_words(
    value: NDArray[np.floating] | NDArray[np.integer],
    uses: NDArray[np.integer],
    images: NDArray[np.integer],
    least_images: int = 1,
) -> NDArray[np.int64]:
    """Words in the order of `value` [K], the largest first; of equal ones the lower number.

    uses, images: int [K], patches and distinct images of each word; those without any, or with
    fewer images than `least_images`, are left out, and so are those whose value is not a number.
    """
    kept = np.flatnonzero((uses > 0) & (images >= least_images) & ~np.isnan(value))
    return kept[np.argsort(-np.asarray(value, np.float64)[kept], kind="stable")]


def best_of_each_image(row: NDArray[np.int64], score: NDArray[np.floating]) -> NDArray[np.int64]:
    """Of the patches of one word the best one of each image, the highest score first.

    Only members come in, so that no score stands for "not a member": logits may all be negative.

    Args:
        row: int64 [m], the image of each patch.
        score: [m].

    Returns:
        int64 [number of images], positions in `row`; of equal scores the earlier one.
    """
    order = np.argsort(-score, kind="stable")
    _, first = np.unique(row[order], return_index=True)
    return order[np.sort(first)]


def first_bright(
    candidates: Iterable[int],
    top_k: int,
    window_of: Callable[[int], NDArray[np.uint8] | None],
    dark: float = DARK,
) -> list[tuple[int, NDArray[np.uint8]]]:
    """The first `top_k` of the first 2 * `top_k` candidates whose windows are not dark.

    window_of: gives the window of a candidate, or None for an image that can no longer be read;
    asked no more often than needed. dark: a window whose brightness is not above it is passed over.
    Fewer come back where there are fewer.
    """
    kept: list[tuple[int, NDArray[np.uint8]]] = []
    for _, candidate in zip(range(2 * top_k), candidates, strict=False):
        window = window_of(candidate)
        if window is not None and brightness(window) > dark:
            kept.append((candidate, window))
        if len(kept) == top_k:
            break
    return kept


def brightness(window: NDArray[np.uint8]) -> float:
    """Mean HSV value of RGB pixels [H, W, 3]: 0..255."""
    return float(window.max(axis=-1).mean())


def window_around(
    view: NDArray[np.uint8], place: tuple[int, int], patch: int, side: int
) -> NDArray[np.uint8]:
    """The surroundings of a patch: uint8 [side * patch, side * patch, 3], black beyond the view.

    Args:
        view: uint8 [H, W, 3].
        place: row and column of the patch.
        patch: pixels of a patch.
        side: patches along a side; odd, so that one is in the middle.

    Raises:
        ValueError: an even side, or one below 1.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"a window of {side} patches has none in its middle")
    window = np.zeros((side * patch, side * patch, 3), np.uint8)
    top, left = ((number - side // 2) * patch for number in place)
    rows = slice(max(0, top), min(view.shape[0], top + side * patch))
    columns = slice(max(0, left), min(view.shape[1], left + side * patch))
    window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = view[
        rows, columns
    ]
    return window


def covered(window: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """The window with the published colour over the patch in its middle: uint8, same shape."""
    picture = Image.fromarray(window)
    start = (window.shape[0] - patch) // 2
    box = (start, start, start + patch, start + patch)
    picture.paste(COVER, box, Image.new("L", (patch, patch), COVER_ALPHA))
    return np.asarray(picture)


def framed(window: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """The window with a frame around the patch in its middle, which stays to be seen."""
    picture = Image.fromarray(window)
    pen = ImageDraw.Draw(picture)
    start = (window.shape[0] - patch) // 2
    width = max(1, patch // 8)
    for grown in range(width + 1, 0, -1):
        colour = (0, 0, 0) if grown > width else FRAME  # dark outside: seen on any ground
        low, high = start - grown, start + patch - 1 + grown
        pen.rectangle((low, low, high, high), outline=colour)
    return np.asarray(picture)


def columns_for(count: int) -> int:
    """How many columns make a square of `count` cells: its root, rounded up."""
    return math.isqrt(max(1, count) - 1) + 1


def layout(windows: Sequence[NDArray[np.uint8]], top_k: int, gap: int = 0) -> NDArray[np.uint8]:
    """Windows of one size in ceil(sqrt(top_k)) columns, row by row: uint8 [H, W, 3].

    Cells without a window are white, and rows without any are not there. Raises ValueError for no
    windows.
    """
    if not windows:
        raise ValueError("no windows to lay out")
    height, width = windows[0].shape[:2]
    columns = columns_for(top_k)
    rows = -(-len(windows) // columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    sheet = np.full((*size, 3), 255, np.uint8)
    for i, window in enumerate(windows):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = window
    return sheet


def purity(
    words: NDArray[np.integer], labels: NDArray[np.integer], num_words: int, num_labels: int
) -> NDArray[np.float64]:
    """Share of the most frequent label among the patches of each word: float64 [K], NaN without
    any.

    words: int [n, N], or [n] of whole images. labels: int [n].
    """
    counts = np.zeros(num_words * num_labels, np.int64)
    rows = max(1, 2**22 // max(1, words[:1].size))  # a million images do not come into memory
    for start in range(0, len(words), rows):
        part = np.asarray(words[start : start + rows], np.int64).reshape(-1)
        own = np.asarray(labels[start : start + rows], np.int64)
        both = part * num_labels + own.repeat(len(part) // len(own))
        counts += np.bincount(both, minlength=len(counts))
    table = counts.reshape(num_words, num_labels)
    uses = table.sum(axis=1)
    return np.divide(
        table.max(axis=1), uses, out=np.full(num_words, np.nan), where=uses > 0, casting="unsafe"
    )
