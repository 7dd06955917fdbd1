"""Masks in boxes against loops over cells and pixels."""

import pytest
import torch

from ibot.eval.dense.detection.masks import mask_targets, paste, sampled


def bilinear(grid, y, x):
    """A map at a point whose cells' centres lie at whole numbers; 0 outside."""
    total = 0.0
    for i in (int(y // 1), int(y // 1) + 1):
        for j in (int(x // 1), int(x // 1) + 1):
            if 0 <= i < len(grid) and 0 <= j < len(grid[0]):
                total += grid[i][j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def slow_target(mask, box):
    """The mean of ceil(cell) squared points in each cell, the mask 0 around the image."""
    left, top, right, bottom = (value - 0.5 for value in box)
    height, width = (bottom - top) / 28, (right - left) / 28
    rows, columns = -int(-height // 1), -int(-width // 1)
    cells = torch.zeros(28, 28)
    for i in range(28):
        for j in range(28):
            points = [
                bilinear(
                    mask,
                    top + (i + (p + 0.5) / rows) * height,
                    left + (j + (q + 0.5) / columns) * width,
                )
                for p in range(rows)
                for q in range(columns)
            ]
            cells[i, j] = sum(points) / len(points)
    return cells


def test_targets_equal_a_loop_over_points():
    masks = torch.zeros(3, 40, 50, dtype=torch.uint8)
    masks[0, 5:30, 8:40] = 1
    masks[2, 20:, 30:] = 1  # to the image's edge
    boxes = torch.tensor([[8.3, 4.1, 41.7, 31.2], [25.2, 15.4, 50, 40], [1.0, 1, 12, 9]])
    chosen = torch.tensor([0, 2, 0])
    targets = mask_targets(masks, boxes, chosen, (64, 64))
    for target, box, k in zip(targets, boxes.tolist(), chosen.tolist(), strict=True):
        share = slow_target(masks[k].tolist(), box)
        # Where the share is a half, the last bit of its sum decides.
        clear = (share - 0.5).abs() > 1e-4
        assert (
            torch.equal(target[clear], (share >= 0.5).float()[clear]) and clear.float().mean() > 0.9
        )
    assert 0.3 < targets[0].mean() <= 1 and targets[0].mean() != targets[1].mean()


def test_there_may_be_no_box():
    masks = torch.zeros(0, 8, 8, dtype=torch.uint8)
    assert mask_targets(masks, torch.zeros(0, 4), torch.zeros(0).long(), (32, 32)).shape == (
        0,
        28,
        28,
    )


def slow_paste(mask, box, height, width):
    """Every pixel of the image by itself."""
    left, top, right, bottom = box
    values = [
        [
            bilinear(
                mask,
                (y + 0.5 - top) / (bottom - top) * 28 - 0.5,
                (x + 0.5 - left) / (right - left) * 28 - 0.5,
            )
            for x in range(width)
        ]
        for y in range(height)
    ]
    return torch.tensor(values)


BOXES = ([3.2, 5.1, 30.7, 20.4], [0.0, 0.0, 40.0, 30.0], [35.6, 20.2, 40.0, 30.0],
         [10.2, 10.3, 10.6, 10.9])  # fmt: skip


@pytest.mark.parametrize("box", BOXES)
def test_pasted_masks_equal_a_loop_over_all_pixels(box):
    mask = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    mask[:, -3:] = 1  # as much as there can be beyond the box
    values = slow_paste(mask.tolist(), box, 30, 40)
    got = paste(mask[None], torch.tensor([box]), (30, 40))[0]
    clear = (values - 0.5).abs() > 1e-4
    assert torch.equal(got[clear], (values >= 0.5)[clear])
    everywhere = sampled(mask, torch.tensor(box), torch.arange(40), torch.arange(30))
    torch.testing.assert_close(everywhere, values, atol=1e-4, rtol=0)


def test_a_box_without_area_has_no_mask():
    boxes = torch.tensor([[5.0, 5, 5, 9], [40, 2, 40, 8]])
    assert not paste(torch.ones(2, 28, 28), boxes, (30, 40)).any()
