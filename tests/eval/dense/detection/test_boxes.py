"""Deltas, clamps and GIoU against single numbers."""

import math

import pytest
import torch

from ibot.eval.dense.detection.boxes import LARGEST_DELTA, clip, decode, encode, giou


def random_boxes(count, seed=0, side=100.0):
    random = torch.Generator().manual_seed(seed)
    corners = side * torch.rand(count, 2, 2, generator=random)
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 1], dim=1)


def test_the_delta_of_a_shifted_wider_box():
    box, goal = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[3.0, 0, 23, 20]])
    assert encode(box, goal)[0].tolist() == pytest.approx([0.8, 0, math.log(2), 0])
    scaled = encode(box, goal, (0.1, 0.1, 0.2, 0.2))[0].tolist()
    assert scaled == pytest.approx([8, 0, math.log(2) / 0.2, 0], rel=1e-5)


def test_what_is_encoded_is_decoded():
    boxes, goals = random_boxes(50), random_boxes(50, seed=1)
    stds = (0.033, 0.033, 0.067, 0.067)
    # Sides of 100 pixels in float32, through a logarithm.
    torch.testing.assert_close(
        decode(boxes, encode(boxes, goals, stds), stds), goals, atol=1e-3, rtol=0
    )


def test_sides_grow_and_shrink_62_5_fold_at_most():
    assert pytest.approx(4.135, abs=5e-4) == LARGEST_DELTA
    box = torch.tensor([0.0, 0, 16, 16])
    grown = decode(box, torch.tensor([0.0, 0, 9, 5]))
    assert (grown[2:] - grown[:2]).tolist() == pytest.approx([1000, 1000], rel=1e-5)
    shrunk = decode(box, torch.tensor([0.0, 0, -9, -5]))
    assert (shrunk[2:] - shrunk[:2]).tolist() == pytest.approx([0.256, 0.256], rel=1e-4)


def test_boxes_are_clipped_to_height_and_width():
    boxes = torch.tensor([[-5.0, -1, 300, 90], [10, 20, 30, 40]])
    assert clip(boxes, (80, 200)).tolist() == [[0, 0, 200, 80], [10, 20, 30, 40]]


def test_the_loss_of_two_boxes_that_share_a_quarter():
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 15, 15]])
    # IoU 25 / 175, hull 225.
    assert 1 - giou(a, b).item() == pytest.approx(1.0794, abs=5e-5)
    assert 1 - giou(a, b).item() == pytest.approx(1 - 25 / 175 + 50 / 225, rel=1e-6)


def test_giou_equals_a_loop():
    a, b = random_boxes(40), random_boxes(40, seed=1)
    expected = []
    for (l1, t1, r1, b1), (l2, t2, r2, b2) in zip(a.tolist(), b.tolist(), strict=True):
        overlap = max(0, min(r1, r2) - max(l1, l2)) * max(0, min(b1, b2) - max(t1, t2))
        union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - overlap
        hull = (max(r1, r2) - min(l1, l2)) * (max(b1, b2) - min(t1, t2))
        expected.append(overlap / union - (hull - union) / hull)
    assert giou(a, b).tolist() == pytest.approx(expected, abs=1e-5)
    assert giou(a, a).tolist() == pytest.approx([1.0] * 40)


def test_giou_has_a_gradient_where_boxes_are_empty():
    empty = torch.zeros(1, 4, requires_grad=True)
    giou(empty, torch.tensor([[1.0, 1, 2, 2]])).sum().backward()
    assert empty.grad is not None and empty.grad.isfinite().all()
