"""Masks of objects inside of boxes: what is learned, and how it is put into the image (8.9.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

SIDE = 28
"""Cells of a mask's side."""


def mask_targets(masks: Tensor, boxes: Tensor, chosen: Tensor, padded: tuple[int, int]) -> Tensor:
    """What is to be seen in each box: float32 [n, 28, 28] of 0 and 1.

    Args:
        masks: of an image's objects, uint8 [objects, h, w].
        boxes: float32 [n, 4].
        chosen: int64 [n], the object of each box.
        padded: height and width of the network's input: background lies around the image.
    """
    if not len(boxes):
        return boxes.new_zeros(0, SIDE, SIDE)
    below, right = (min(1, p - s) for p, s in zip(padded, masks.shape[1:], strict=True))
    # Only the objects asked for: bitmaps of a crowded image are large.
    objects, row = chosen.unique(return_inverse=True)
    maps = F.pad(masks[objects].to(boxes.dtype), (0, right, 0, below))[:, None]
    rois = torch.cat([row[:, None].to(boxes.dtype), boxes], dim=1)
    cut = roi_align(maps, rois, (SIDE, SIDE), 1.0, sampling_ratio=0, aligned=True)
    return (cut[:, 0] >= 0.5).to(boxes.dtype)


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], least: float = 0.5) -> Tensor:
    """Masks inside of boxes as masks of the image: bool [n, H, W].

    Bilinear between the centres of the cells, 0 outside; true from `least` on. Nothing beyond a box
    reaches a half, so that only what lies in it is computed.

    Args:
        masks: probabilities [n, 28, 28].
        boxes: float32 [n, 4].
        size: height and width of the image.
        least: at least 0.5.
    """
    height, width = size
    image = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=masks.device)
    corners = torch.stack([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).long()
    limit = corners.new_tensor([width, height])
    for place, mask, box, corner in zip(
        image, masks, boxes, corners.clamp(min=0).minimum(limit).tolist(), strict=True
    ):
        (left, top), (right, bottom) = corner
        if left < right and top < bottom:
            x, y = torch.arange(left, right), torch.arange(top, bottom)
            place[top:bottom, left:right] = sampled(mask, box, x, y) >= least
    return image


def sampled(mask: Tensor, box: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A mask [h, w] inside of a box [4] at the centres of pixels: [len(y), len(x)]."""
    lows, sides = box[:2], box[2:] - box[:2]
    places = [
        ((at.to(box) + 0.5 - lows[axis]) / sides[axis]) * 2 - 1 for axis, at in enumerate((x, y))
    ]
    grid = torch.stack(torch.meshgrid(*places, indexing="xy"), dim=-1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
