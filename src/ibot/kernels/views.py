"""Views of a whole batch of byte pictures by the kernel in C: checks, then one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.config.resolve import MAX_SIGMA
from ibot.kernels.library import views_function
from ibot.types import ViewParams

Size = tuple[int, int]
Pixels = NDArray[np.uint8]
BEST = 2
"""Widest vectors that are used where the processor has them; 1 is AVX2, 0 none but the usual."""
_ORDER = np.arange(4)
_FIELDS = {
    "box": np.int32,
    "flip": np.bool_,
    "vertical_flip": np.bool_,
    "turn": np.uint8,
    "jitter": np.float32,
    "jitter_order": np.uint8,
    "gray": np.bool_,
    "blur_sigma": np.float32,
    "solarize": np.bool_,
}
"""In the order of the arguments."""
MAX_FACTOR, MAX_SIDE = 1e6, 2**27
"""Of colour jitter and of a box: far beyond what means anything, within what C can count."""


def is_built() -> bool:
    """Whether the kernel is there."""
    return views_function() is not None


def make_views(
    images: Sequence[NDArray[Any]],
    params: ViewParams,
    num_global: int,
    global_size: Size,
    local_size: Size,
    level: int = BEST,
) -> tuple[Pixels, Pixels]:
    """All views of images uint8 [H, W, 3]: uint8 [G, B, 3, *global_size], [L, B, 3, *local_size].

    Raises ValueError for parameters that lead out of an image or are none, RuntimeError where the
    kernel was not built, MemoryError.
    """
    function = views_function()
    if function is None:
        raise RuntimeError("the kernel was not built")
    images = [_readable(image) for image in images]
    num_images, num_views = params.flip.shape
    arrays = [np.ascontiguousarray(getattr(params, name), kind) for name, kind in _FIELDS.items()]
    check(images, params, num_global, global_size, local_size)
    out = (
        np.empty((num_global, num_images, 3, *global_size), np.uint8),
        np.empty((num_views - num_global, num_images, 3, *local_size), np.uint8),
    )
    pointers = np.array([image.ctypes.data for image in images], np.uintp)
    strides = np.array([image.strides[0] for image in images], np.int64)
    sizes = np.array([*global_size, *local_size], np.int32)
    data = [array.ctypes.data for array in (sizes, *arrays, *out)]
    counts = num_views, num_global
    if function(level, num_images, pointers.ctypes.data, strides.ctypes.data, *counts, *data):
        raise MemoryError(f"views of {num_images} images")
    return out


def check(
    images: Sequence[NDArray[np.generic]],
    params: ViewParams,
    num_global: int,
    global_size: Size,
    local_size: Size,
) -> None:
    """Raise ValueError where parameters do not fit images [H, W, C], sizes or each other."""
    num_images, num_views = params.flip.shape
    if len(images) != num_images or not 0 <= num_global <= num_views:
        raise ValueError(f"{len(images)} images, {num_global} global of {params.flip.shape} views")
    if min(*global_size, *local_size) < 1:
        raise ValueError(f"views of {global_size} and {local_size} pixels")
    _check_shapes(params)
    _check_boxes(images, params.box.astype(np.int64))
    turn, order = params.turn, params.jitter_order
    jittered = order[order[..., 0] != 255]
    if (np.sort(jittered, axis=-1) != _ORDER).any() or not (
        np.abs(params.jitter) <= MAX_FACTOR
    ).all():
        raise ValueError("an order or a factor of colour jitter is none")
    if not ((params.blur_sigma >= 0) & (params.blur_sigma <= MAX_SIGMA)).all():
        raise ValueError(f"a radius of blur is not within 0 and {MAX_SIGMA:g}")
    turned: NDArray[np.uint8] = (turn % 2).max(axis=0)
    for size, views in ((global_size, turned[:num_global]), (local_size, turned[num_global:])):
        if views.any() and size[0] != size[1]:
            raise ValueError(f"a quarter turn of views of {size[0]} x {size[1]}: not square")
    if (turn > 3).any():
        raise ValueError("more than three quarter turns")


def _check_shapes(params: ViewParams) -> None:
    shape, last = params.flip.shape, {"box": (4,), "jitter": (4,), "jitter_order": (4,)}
    for name in _FIELDS:
        if (found := getattr(params, name).shape) != (*shape, *last.get(name, ())):
            raise ValueError(f"{name} has the shape {found}, flip {shape}")


def _check_boxes(images: Sequence[NDArray[np.generic]], box: NDArray[np.int64]) -> None:
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 1, 2)
    start, extent = box[..., :2], box[..., 2:]
    if (start < 0).any() or (extent < 1).any() or (start + extent > sizes).any():
        raise ValueError("a box leads out of its image")
    if (extent > MAX_SIDE).any():
        raise ValueError(f"a box of more than {MAX_SIDE} pixels a side")


def _readable(image: NDArray[Any]) -> Pixels:
    """The image with pixels side by side; rows may lie anywhere behind each other."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{image.dtype} {list(image.shape)} is not uint8 [H, W, 3]")
    return image if image.strides[1:] == (3, 1) else np.ascontiguousarray(image)
