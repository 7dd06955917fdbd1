"""What goes into a detector and what comes out.

Boxes are float32 rows (left, top, right, bottom) in pixels, without +1; labels count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.system.distributed import largest_in_place, several_processes


@dataclass(frozen=True, slots=True)
class Target:
    """The objects of an image, crowds left out, at the size of the network's input."""

    boxes: Tensor
    """float32 [n, 4], inside of the image."""
    labels: Tensor
    """int64 [n], 0..C-1."""
    masks: Tensor | None
    """uint8 [n, h, w], 1 = object, without the padding; None for a set without masks."""

    def to(self, device: torch.device) -> Target:
        """The same on another device."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        boxes, labels = (x.to(device, non_blocking=True) for x in (self.boxes, self.labels))
        return Target(boxes, labels, masks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Images of one micro-batch.

    Stochastic depth deals the images of a step to its parts one by one: micro-batch number `part`
    of `parts` holds the images part, part + parts, ... (`ibot.models.layers.DropPath`), and all
    have as many.
    """

    images: Tensor
    """float32 [B, 3, H, W], normalised, padded right and below with 0 to a multiple of 32."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of each image without the padding."""
    targets: Sequence[Target]
    """Of each image; empty where there is nothing to learn."""
    factors: Sequence[tuple[float, float]]
    """By what height and width were multiplied when the image was resized."""
    index: Sequence[int]
    """Number of each image in its set: what is drawn for it hangs on that."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(
            images=self.images.to(device, non_blocking=True),
            sizes=self.sizes,
            targets=[target.to(device) for target in self.targets],
            factors=self.factors,
            index=self.index,
        )

    def padded_alike(self) -> Batch:
        """Padded to the largest images of all processes.

        Attention and batch norm see the padding: with it the numbers of several processes are those
        of one that has all the images. It costs no time, as the largest ones are waited for anyway.
        """
        if not several_processes():
            return self
        own = self.images.shape[2:]
        sides = torch.tensor(own, device=self.images.device)
        height, width = largest_in_place(sides).tolist()
        padding = (0, width - own[1], 0, height - own[0])
        return replace(self, images=F.pad(self.images, padding))


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in an image, best first, at the size that the file has."""

    boxes: Tensor
    """float32 [k, 4], inside of the image."""
    scores: Tensor
    """float32 [k], 0..1."""
    labels: Tensor
    """int64 [k], 0..C-1."""
    masks: Tensor | None
    """bool [k, H, W]; None without mask heads."""
