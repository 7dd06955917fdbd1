"""Class scores of whole images of any size from a network that sees squares (8.11)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibot.eval.dense.rescale import resize_bilinear, to_input
from ibot.eval.dense.segmentation.heads import resized
from ibot.eval.dense.segmentation.samples import Statistics, scaled_size

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of the multi-scale test."""
CLASSES_AT_ONCE = 16
"""Whose scores are held at an image's own size."""
Scores = Callable[[Tensor], Tensor]
"""Normalised images [B, 3, S, S] -> logits [B, C, h, w], or [B, R * C, h, w] of R heads."""


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """Where the windows along an axis begin; the last one ends at the border."""
    count = max(side - crop + stride - 1, 0) // stride + 1
    return [min(i * stride, max(side - crop, 0)) for i in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingTest:
    """How an image is tested."""

    crop: int
    """Side of a window in pixels."""
    stride: int
    """Pixels from a window to the next."""
    statistics: Statistics
    """By which the network's input is normalised."""
    fixed: bool = False
    """Test images at their own pixels, not with the shorter side of the crop's."""
    multi_scale: bool = False
    """Mean probabilities at six scales, as they are and mirrored."""
    windows: int = 4
    """At a time through the network."""

    def classes(
        self, scores: Scores, pixels: NDArray[np.uint8], device: torch.device, heads: int = 1
    ) -> Tensor:
        """The most likely class of each pixel of RGB uint8 [H, W, 3]: int64 [heads, H, W]."""
        height, width = pixels.shape[:2]
        if not self.multi_scale:
            size = scaled_size(height, width, self.crop, 1.0, self.fixed)
            logits = self._logits(scores, pixels, size, device, mirrored=False)
            return torch.stack([likeliest(one, (height, width)) for one in logits.chunk(heads)])
        sizes = Counter(self._size_at(height, width, scale) for scale in SCALES)
        total = torch.zeros(1)
        for (size, times), mirrored in product(sizes.items(), (False, True)):
            logits = self._logits(scores, pixels, size, device, mirrored=mirrored)
            large = resized(logits[None], (height, width))[0]
            shares = large.unflatten(0, (heads, -1)).softmax(dim=1)
            total = times * shares + total.to(device)
        return total.argmax(dim=1)

    def _size_at(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """The shorter side gets `scale` times the crop's pixels, but those at least."""
        if self.fixed:
            return scaled_size(height, width, self.crop, scale, fixed=True)
        factor = max(self.crop, int(scale * self.crop)) / min(height, width)
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def _logits(
        self,
        scores: Scores,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        device: torch.device,
        *,
        mirrored: bool,
    ) -> Tensor:
        # Images as they are read may not be written to, which torch would complain of.
        own = np.require(resize_bilinear(pixels, size), requirements=["C", "W"])
        image = to_input(own, self.statistics).to(device)
        image = image.flip(2) if mirrored else image
        logits = slide(scores, image, self.crop, self.stride, self.windows)
        return logits.flip(2) if mirrored else logits


def slide(scores: Scores, image: Tensor, crop: int, stride: int, windows: int = 4) -> Tensor:
    """Logits [C, H, W] of a normalised image [3, H, W]: means over windows of crop x crop.

    An image that is smaller is filled up with zeros, as in training. windows: at a time.
    """
    height, width = image.shape[-2:]
    image = F.pad(image, (0, max(crop - width, 0), 0, max(crop - height, 0)))
    rows, columns = image.shape[-2:]
    corners = list(product(window_starts(rows, crop, stride), window_starts(columns, crop, stride)))
    total, times = None, image.new_zeros(rows, columns)
    for first in range(0, len(corners), windows):
        chunk = corners[first : first + windows]
        pieces = [image[:, top : top + crop, left : left + crop] for top, left in chunk]
        found = resized(scores(torch.stack(pieces)).float(), (crop, crop))
        if total is None:
            total = found.new_zeros(found.shape[1], rows, columns)
        for (top, left), logits in zip(chunk, found, strict=True):
            total[:, top : top + crop, left : left + crop] += logits
            times[top : top + crop, left : left + crop] += 1
    assert total is not None
    return (total / times)[:, :height, :width]


def likeliest(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The first class with the highest score at each pixel: [C, h, w] -> int64 [*size].

    Scores are resized some classes at a time: all of them at the size of a photo fill a memory.
    """
    best: Tensor | None = None
    classes = torch.zeros(tuple(size), dtype=torch.int64, device=logits.device)
    for first in range(0, len(logits), CLASSES_AT_ONCE):
        part = resized(logits[None, first : first + CLASSES_AT_ONCE], size)[0]
        value, number = part.max(dim=0)
        if best is None:
            best, classes = value, number
        else:
            classes = torch.where(value > best, number + first, classes)
            best = torch.maximum(best, value)
    return classes
