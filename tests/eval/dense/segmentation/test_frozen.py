"""The fast variant: shares of classes in cells, features of whole images, and its loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.eval.dense.segmentation.frozen import (
    CellClassifiers,
    CellFeature,
    cell_features,
    class_shares,
    share_loss,
)
from ibot.eval.dense.segmentation.heads import pixel_loss


@pytest.mark.parametrize("size", [(12, 20), (13, 21), (3, 4), (2, 3)])
def test_shares_of_cells_are_those_of_counting(size):
    labels = np.random.default_rng(0).integers(-1, 4, size).astype(np.int16)
    shares, rows, columns = class_shares(labels, (3, 4), 4), 3, 4
    slow = np.zeros((rows * columns, 4))
    for y in range(size[0]):
        for x in range(size[1]):
            cell = (y * rows // size[0]) * columns + x * columns // size[1]
            if labels[y, x] >= 0:
                slow[cell, labels[y, x]] += 1 / labels.size
    assert np.allclose(shares, slow) and shares.sum() == pytest.approx((labels >= 0).mean())


def test_the_loss_of_cells_is_that_of_their_pixels():
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(-1, 3, (2, 16, 20))
    large = F.interpolate(logits, (16, 20), mode="nearest")
    shares = [torch.from_numpy(class_shares(one.numpy(), (4, 5), 3)) for one in labels]
    cells = logits.flatten(2).transpose(1, 2).flatten(0, 1)
    loss = share_loss(cells, torch.cat(shares), 2)
    assert loss.item() == pytest.approx(pixel_loss(large, labels).item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_cells_are_the_normed_tokens_in_their_order(network, kind):
    backbone = network(kind)
    images = torch.randn(2, 3, 32, 48)
    last, pixels = CellFeature((backbone.num_blocks,)), CellFeature()
    with torch.no_grad():
        found = cell_features(backbone, images, [last, pixels])
        tokens = backbone(images)
    assert tokens.grid == (4, 6)
    assert torch.allclose(found[last].view(2, 24, -1), tokens.patches, atol=1e-5)
    cell = images[1, :, 8:16, 16:24].flatten()
    assert torch.equal(found[pixels].view(2, 24, -1)[1, 1 * 6 + 2], cell)
    blocks = CellFeature(tuple(dict.fromkeys(backbone.pyramid_blocks)))
    widths = sum(backbone.map_shape(block).channels for block in blocks.blocks)
    joined = cell_features(backbone, images, [blocks])[blocks]
    assert joined.shape == (2, 24 * widths)
    assert len({str(last), str(pixels), str(blocks)}) == 3


def test_features_are_standardised_by_those_of_the_training_images():
    cells = 5 + 3 * torch.randn(500, 4)
    cells = torch.cat([cells, torch.ones(500, 1)], dim=1)
    model = CellClassifiers(cells, 2, seed=0, rates=2)
    scaled = (cells - model.mean) * model.scale
    assert torch.allclose(scaled[:, :4].std(dim=0), torch.ones(4), atol=1e-3)
    assert not scaled[:, 4].any(), "what never changes says nothing"
    again = CellClassifiers(cells, 2, seed=0)
    for logits in model(cells):
        assert torch.equal(logits, again(cells)[0])
