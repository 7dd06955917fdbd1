"""Boxes as numbers: what a network predicts of them, and how two are compared (8.9.3, 8.9.4).

A box is (left, top, right, bottom) in pixels, without +1. A delta is what makes one box another:
shift of the centre in sides of the first box, and logarithms of the ratio of the sides, each
divided by a deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_DELTA = math.log(1000 / 16)
"""Of the logarithm of a ratio of sides, upwards and downwards: 4.135."""

STDS = (1.0, 1.0, 1.0, 1.0)


def encode(boxes: Tensor, goals: Tensor, stds: Sequence[float] = STDS) -> Tensor:
    """Deltas [n, 4] that make `goals` of `boxes`, both [n, 4] with sides above 0."""
    center, side = _center_side(boxes)
    goal_center, goal_side = _center_side(goals)
    deltas = torch.cat([(goal_center - center) / side, (goal_side / side).log()], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float] = STDS) -> Tensor:
    """What `deltas` [..., 4] make of `boxes` [..., 4] (broadcast); sides grow at most 62.5 fold."""
    deltas = deltas * deltas.new_tensor(stds)
    center, side = _center_side(boxes)
    center = center + deltas[..., :2] * side
    half = side * deltas[..., 2:].clamp(-LARGEST_DELTA, LARGEST_DELTA).exp() / 2
    return torch.cat([center - half, center + half], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] inside of an image of that height and width."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised IoU [n] of boxes [n, 4] in pairs, -1..1: less the share of the hull outside both.

    No area that is divided by is below `eps`.
    """
    union, overlap = _union_overlap(a, b)
    sides = torch.max(a[:, 2:], b[:, 2:]) - torch.min(a[:, :2], b[:, :2])
    hull = sides.clamp(min=0).prod(dim=1).clamp(min=eps)
    union = union.clamp(min=eps)
    return overlap / union - (hull - union) / hull


def _union_overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    sides = torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])
    overlap = sides.clamp(min=0).prod(dim=1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(dim=1) for box in (a, b))
    return area_a + area_b - overlap, overlap


def _center_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
