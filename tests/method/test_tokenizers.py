"""Patch targets of the ablations against slow, obvious ones."""

import numpy as np
import pytest
import torch

from ibot.data.masks import masks_from_map
from ibot.method.tokenizers import ClusterTokenizer, ColorTokenizer, hidden_patches

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 3, 16, 24, generator=generator)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    masks = masks_from_map(torch.rand(2, 3, 6, generator=generator) < 0.5)
    return pixels, (pixels - mean) / std, masks


def patches(images, masks):
    """(view, image, patch) of every hidden patch with its pixels [3, 8, 8], by loops."""
    for view in range(2):
        for image in range(3):
            for place in range(6):
                if masks.map[view, image, place]:
                    row, column = divmod(place, 3)
                    yield images[view, image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]


def test_hidden_patches_are_the_pixels_below_the_mask(views):
    _, normalized, masks = views
    want = torch.stack([patch.reshape(-1) for patch in patches(normalized, masks)])
    torch.testing.assert_close(hidden_patches(normalized, masks, 8), want)


def test_colour_classes_are_three_bits_a_channel(views):
    pixels, normalized, masks = views
    got = ColorTokenizer(8, MEAN, STD).targets(normalized, masks, 0.07)
    assert got.shape == (len(masks.index), 512) and torch.equal(got.sum(1), torch.ones(len(got)))
    want = []
    for patch in patches(pixels, masks):
        red, green, blue = (min(7, int(patch[channel].mean().item() * 8)) for channel in range(3))
        want.append(64 * red + 8 * green + blue)
    assert got.argmax(1).tolist() == want and len(set(want)) > 1


def test_clusters_are_the_nearest_centers(views):
    _, normalized, masks = views
    centers = torch.randn(5, 192, generator=torch.Generator().manual_seed(1))
    got = ClusterTokenizer(8, centers).targets(normalized, masks, 0.07).argmax(1).tolist()
    for patch, index in zip(patches(normalized, masks), got, strict=True):
        distances = [np.square(patch.reshape(-1).numpy() - center.numpy()).sum() for center in centers]
        assert index == int(np.argmin(distances))


def test_no_hidden_patch_gives_no_target(views):
    _, normalized, _ = views
    none = masks_from_map(torch.zeros(2, 3, 6, dtype=torch.bool))
    assert ClusterTokenizer(8, torch.randn(5, 192)).targets(normalized, none, 0.07).shape == (0, 5)
