"""Sizes and pixels of the dense protocols: OpenCV's resizing, without antialiasing.

The published numbers hang on that interpolation (spec_evaluation 8.9.1, 10.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.errors import MissingExtra


def opencv() -> Any:
    """The package, on one thread: processes share the machine. Raises MissingExtra."""
    try:
        import cv2
    except ImportError:
        raise MissingExtra("opencv-python-headless", "dense") from None
    cv2.setNumThreads(1)
    return cv2


def rescaled_size(height: int, width: int, *, long: int, short: int) -> tuple[int, int]:
    """The largest size of the same shape whose sides stay within `long` and `short` pixels (8.9.1).

    Rounded to the nearest; at least one pixel.
    """
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_bilinear(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """[H, W] or [H, W, C], uint8 or float32 -> the same type at `size` (height, width)."""
    return _resize(image, size, "INTER_LINEAR")


def resize_nearest(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Labels or masks [H, W] -> [h, w], each place that of the nearest."""
    return _resize(labels, size, "INTER_NEAREST")


def _resize(image: NDArray[Any], size: tuple[int, int], how: str) -> NDArray[Any]:
    if image.shape[:2] == tuple(size):
        return image
    cv2 = opencv()
    return cv2.resize(image, (size[1], size[0]), interpolation=getattr(cv2, how))


def to_input(
    image: NDArray[np.uint8], statistics: tuple[Sequence[float], Sequence[float]]
) -> Tensor:
    """RGB uint8 [H, W, 3] -> normalised float32 [3, H, W].

    statistics: mean and deviation of levels 0..1, of a backbone; ImageNet's give 8.9.1's values.
    """
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in statistics)
    levels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    return (levels - mean) / std


def padded(images: Sequence[Tensor], multiple: int, value: float = 0.0) -> Tensor:
    """Tensors [..., h, w] of any sizes, padded right and below to one multiple: [B, ..., H, W]."""
    height, width = (
        -(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (-2, -1)
    )
    batch = images[0].new_full((len(images), *images[0].shape[:-2], height, width), value)
    for place, image in zip(batch, images, strict=True):
        place[..., : image.shape[-2], : image.shape[-1]] = image
    return batch
