"""Anchors in floating point, where 8.9.3 puts them."""

import pytest
import torch

from ibot.eval.dense.detection.anchors import base_anchors, level_anchors


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_three_shapes_double_with_the_stride(stride):
    anchors = base_anchors(stride)
    sides = anchors[:, 2:] - anchors[:, :2]
    published = torch.tensor([[45.25, 22.63], [32, 32], [22.63, 45.25]]) * stride / 4
    torch.testing.assert_close(sides, published, atol=5e-3 * stride / 4, rtol=0)
    # Not rounded: a ratio of 1/2 exactly, and the same area in all shapes.
    assert (sides[:, 1] / sides[:, 0]).tolist() == pytest.approx([0.5, 1, 2], rel=1e-6)
    assert sides.prod(dim=1).tolist() == pytest.approx([(8 * stride) ** 2] * 3, rel=1e-6)
    assert not (anchors[:, :2] + anchors[:, 2:]).any()


def test_cells_are_counted_row_by_row_and_shapes_vary_fastest():
    anchors = level_anchors((2, 3), 16).view(2, 3, 3, 4)
    for row in range(2):
        for column in range(3):
            place = torch.tensor([column * 16.0, row * 16.0, column * 16.0, row * 16.0])
            torch.testing.assert_close(anchors[row, column], base_anchors(16) + place)
