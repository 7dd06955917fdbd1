"""Features of boxes: from the level of their size, pooled without rounding."""

import pytest
import torch
from torchvision.ops import roi_align

from ibot.eval.dense.detection.heads import BoxHead, MaskHead, box_features, level_of


@pytest.mark.parametrize(("side", "level"), [(100, 0), (112, 1), (223, 1), (224, 2), (448, 3)])
def test_the_level_follows_the_side_of_the_box(side, level):
    boxes = torch.tensor([[10.0, 20, 10 + side, 20 + side], [0, 0, side / 2, side * 2]])
    assert level_of(boxes, (4, 8, 16, 32)).tolist() == [level, level]


def test_levels_end_at_both_sides():
    boxes = torch.tensor([[5.0, 5, 5, 9], [0, 0, 1, 1], [0, 0, 5e3, 5e3]])
    assert level_of(boxes, (4, 8, 16, 32)).tolist() == [0, 0, 3]


def test_finer_maps_see_smaller_boxes():
    boxes = torch.tensor([[0.0, 0, 55, 55], [0, 0, 56, 56], [0, 0, 112, 112]])
    assert level_of(boxes, (2, 4, 8, 16)).tolist() == [0, 1, 2]


def test_each_box_is_looked_at_by_itself():
    random = torch.Generator().manual_seed(0)
    strides, levels = (4, 8, 16, 32), []
    for stride in strides:
        levels.append(torch.randn(2, 5, 512 // stride, 512 // stride, generator=random))
    boxes = [
        torch.tensor([[3.0, 4, 50, 60], [8, 9, 400, 500], [0, 0, 180, 130]]),
        torch.tensor([[100.0, 90, 330, 320]]),
    ]
    features = box_features(levels, strides, boxes, 7)
    places = [(0, 0, 0), (0, 1, 2), (0, 2, 1), (1, 0, 2)]
    for got, (image, row, level) in zip(features, places, strict=True):
        one = levels[level][image : image + 1]
        box = boxes[image][row : row + 1] / strides[level]
        # In cells of the map, aligned: half a cell is taken off inside.
        torch.testing.assert_close(got, roi_align(one, [box], 7, aligned=True)[0])


def test_features_of_a_ramp_are_its_values_at_the_cells_centres():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64) + 0.5
    box = torch.tensor([[40.0, 80, 96, 136]])  # 10 to 24 in cells of 4 pixels: cells of 2
    features = box_features([ramp], (4,), [box], 7)
    torch.testing.assert_close(features[0, 0, 0], torch.arange(11.0, 24, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [3, 0])
def test_heads_say_something_of_each_class(count):
    logits, deltas = BoxHead(32, 16, 5, "batch")(torch.randn(count, 32, 7, 7))
    assert logits.shape == (count, 6) and deltas.shape == (count, 5, 4)
    assert MaskHead(32, 5)(torch.randn(count, 32, 14, 14)).shape == (count, 5, 28, 28)
    assert not torch.is_grad_enabled() or deltas.requires_grad
