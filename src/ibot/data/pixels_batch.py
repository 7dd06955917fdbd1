"""Pixels of a whole batch at once: bit by bit those of `pixels.render`, faster on small views.

Crop, resize and blur run per image in Pillow. Colours run on all images of a view that want an
operation together: gray and HSV conversions see one tall picture, everything else is numpy
arithmetic on bytes as Pillow does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.config.schema import AugmentConfig
from ibot.data.params import NO_JITTER, num_views, view_size
from ibot.data.pixels import STD, TURNS, Pixels, blur, render, render_view, resized_crop
from ibot.types import ViewParams

Bytes = NDArray[np.uint8]
LARGE = 64
"""Side from which a view by itself is faster than together with the others: it stays in the
processor's cache."""
_LEVELS = np.arange(256, dtype=np.float32)


def render_batch(
    images: Sequence[Pixels],
    params: ViewParams,
    config: AugmentConfig,
    std: Sequence[float] = STD,
) -> list[Pixels]:
    """All views of images [H, W, C]: V arrays [B, h, w, C], global views first.

    Colour pictures are uint8 with three channels, others float32; `std` as for `pixels.render`.
    """
    if images[0].dtype != np.uint8:
        rendered = [render(image, params, row, config, std) for row, image in enumerate(images)]
        return [np.stack(views) for views in zip(*rendered, strict=True)]
    pictures = [Image.fromarray(image) for image in images]
    views = []
    for view in range(num_views(config)):
        size = view_size(config, view)
        if min(size) < LARGE:
            views.append(_render_together(pictures, params, view, size))
        else:
            rows = [
                render_view(picture, params, row, view, size)
                for row, picture in enumerate(pictures)
            ]
            views.append(np.stack([np.asarray(picture) for picture in rows]))
    return views


def _render_together(
    pictures: Sequence[Image.Image], params: ViewParams, view: int, size: tuple[int, int]
) -> Bytes:
    out = np.empty((len(pictures), *size, 3), np.uint8)
    for row, picture in enumerate(pictures):
        top, left, height, width = params.box[row, view].tolist()
        out[row] = np.asarray(resized_crop(picture, top, left, height, width, size))
    flipped = params.flip[:, view]
    out[flipped] = out[flipped, :, ::-1]
    upside_down = params.vertical_flip[:, view]
    out[upside_down] = out[upside_down, ::-1]
    for turn in TURNS:
        if (turned := params.turn[:, view] == turn).any():
            out[turned] = np.rot90(out[turned], turn, axes=(1, 2))
    order, factors = params.jitter_order[:, view], params.jitter[:, view]
    for position in range(order.shape[1]):
        for operation, apply in enumerate(JITTER):
            rows = np.flatnonzero((order[:, position] == operation) & (order[:, 0] != NO_JITTER))
            if len(rows):
                out[rows] = apply(out[rows], factors[rows, operation])
    gray = params.gray[:, view]
    if gray.any():
        out[gray] = luma(out[gray])[..., None]
    for row in np.flatnonzero(params.blur_sigma[:, view] > 0):
        out[row] = np.asarray(blur(Image.fromarray(out[row]), float(params.blur_sigma[row, view])))
    solarized = params.solarize[:, view]
    if solarized.any():
        chosen = out[solarized]
        out[solarized] = np.where(chosen < 128, chosen, 255 - chosen)
    return out


def luma(images: Bytes) -> Bytes:
    """Gray level of every pixel: [n, h, w, 3] -> [n, h, w]."""
    return np.asarray(_tall(images).convert("L")).reshape(images.shape[:-1])


def _brightness(images: Bytes, factors: NDArray[np.float32]) -> Bytes:
    return _look_up(images, _blend(np.float32(0), _LEVELS, factors[:, None]))


def _contrast(images: Bytes, factors: NDArray[np.float32]) -> Bytes:
    gray = luma(images).reshape(len(images), -1)
    mean = (gray.sum(axis=1, dtype=np.int64) / gray.shape[1] + 0.5).astype(np.int64)
    return _look_up(images, _blend(mean.astype(np.float32)[:, None], _LEVELS, factors[:, None]))


def _saturation(images: Bytes, factors: NDArray[np.float32]) -> Bytes:
    gray = luma(images)[..., None].astype(np.float32)
    return _blend(gray, images.astype(np.float32), factors[:, None, None, None])


def _hue(images: Bytes, shifts: NDArray[np.float32]) -> Bytes:
    hsv = np.array(_tall(images, "RGB").convert("HSV")).reshape(images.shape)
    # Double precision as in the reference: a float32 product can cross a whole number.
    offset = np.trunc(shifts.astype(np.float64) * 255).astype(np.int64)
    hsv[..., 0] += (offset % 256).astype(np.uint8)[:, None, None]
    return np.asarray(_tall(hsv, "HSV").convert("RGB")).reshape(images.shape)


JITTER: tuple[Callable[[Bytes, NDArray[np.float32]], Bytes], ...] = (
    _brightness,
    _contrast,
    _saturation,
    _hue,
)
"""Operations of colour jitter by their number in `ViewParams.jitter_order`."""


def _blend(
    base: NDArray[np.float32] | np.float32,
    levels: NDArray[np.float32],
    factors: NDArray[np.float32],
) -> Bytes:
    """Pillow's blend: base + factor * (level - base) in float32, clipped, truncated."""
    return (base + factors * (levels - base)).clip(0, 255).astype(np.uint8)


def _look_up(images: Bytes, tables: Bytes) -> Bytes:
    """Replace every level by its entry in the image's table [n, 256]."""
    flat = images.reshape(len(images), -1)
    return np.stack([table[pixels] for table, pixels in zip(tables, flat, strict=True)]).reshape(
        images.shape
    )


def _tall(images: Bytes, mode: str = "RGB") -> Image.Image:
    """Images [n, h, w, 3] as one picture of n * h rows."""
    n, height, width = images.shape[:3]
    data = np.ascontiguousarray(images)
    return Image.frombuffer(mode, (width, n * height), data, "raw", mode, 0, 1)
