"""Patch targets of the ablations against slow, obvious ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ibot.data.masks import masks_from_map
from ibot.method.tokenizers import (
    ClusterTokenizer,
    ColorTokenizer,
    FrozenTokenizer,
    hidden_patches,
    nearest,
)
from ibot.models.layers import cut_patches

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
        distances = [
            np.square(patch.reshape(-1).numpy() - center.numpy()).sum() for center in centers
        ]
        assert index == int(np.argmin(distances))


def test_no_hidden_patch_gives_no_target(views):
    _, normalized, _ = views
    none = masks_from_map(torch.zeros(2, 3, 6, dtype=torch.bool))
    assert ClusterTokenizer(8, torch.randn(5, 192)).targets(normalized, none, 0.07).shape == (0, 5)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (23, 31)])
def test_patches_are_cut_row_by_row_and_the_remainder_is_left_out(height, width):
    images = torch.arange(2 * 3 * height * width, dtype=torch.float32).view(2, 3, height, width)
    got = cut_patches(images, 8)
    assert got.shape == (2, 6, 192)
    for place in range(6):
        row, column = divmod(place, 3)
        patch = images[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(got[:, place], patch.flatten(1))


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_nearest_center_is_found_in_any_number_of_parts(chunk):
    g = torch.Generator().manual_seed(0)
    rows, centers = torch.randn(10, 4, generator=g), torch.randn(7, 4, generator=g)
    want = [int((row - centers).norm(dim=1).argmin()) for row in rows]
    assert nearest(rows, centers, chunk).tolist() == want and len(set(want)) > 2
    none = nearest(rows[:0], centers)
    assert none.shape == (0,) and none.dtype == torch.int64


def test_colours_at_the_ends_fall_into_the_first_and_last_level():
    tokenizer = ColorTokenizer(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    colours = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.124], [-0.2, 0.126, 1.3]])
    views = colours.view(1, 3, 3, 1, 1).expand(1, 3, 3, 8, 8)
    masks = masks_from_map(torch.ones(1, 3, 1, dtype=torch.bool))
    got = tokenizer.targets(views, masks, 0.07).argmax(1).tolist()
    assert got == [7 * 64 + 4, 7 * 8, 8 + 7] and tokenizer.size == 512


class Network(torch.nn.Module):
    """Tokens are sums of pixels, logits multiples of tokens; training adds noise."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.backbone = self._tokens
        self.head = SimpleNamespace(
            residual=False, project_patches=lambda patches: patches, logits=self._logits
        )

    def _tokens(self, images):
        assert not self.training
        return SimpleNamespace(
            cls=images.mean((1, 2, 3))[:, None], patches=cut_patches(images, 8).mean(-1)[..., None]
        )

    def _logits(self, cls, patches):
        assert len(cls) == 0
        return cls, patches * torch.tensor([1.0, 2.0, -3.0]) * self.weight


@pytest.mark.parametrize("center", [None, torch.tensor([0.3, -0.2, 0.1])])
def test_a_frozen_network_gives_its_centered_sharpened_distribution(views, center):
    _, normalized, masks = views
    network = Network().train()
    tokenizer = FrozenTokenizer(network, 3, center)
    got = tokenizer.targets(normalized, masks, 0.5)
    shift = torch.zeros(3) if center is None else center
    want = [
        ((patch.mean() * torch.tensor([1.0, 2.0, -3.0]) - shift) / 0.5).softmax(0)
        for patch in patches(normalized, masks)
    ]
    torch.testing.assert_close(got, torch.stack(want))
    assert not network.weight.requires_grad and tokenizer.size == 3 and not got.requires_grad


def test_a_frozen_network_of_residual_patches_sees_whole_views(views):
    _, normalized, masks = views
    network = Network()
    network.head.residual = True
    network.head.patch_rows = lambda patches: patches - patches.mean(dim=1, keepdim=True)
    got = FrozenTokenizer(network, 3, None).targets(normalized, masks, 0.5)
    tokens = cut_patches(normalized.flatten(0, 1), 8).mean(-1)
    rows = (tokens - tokens.mean(dim=1, keepdim=True)).flatten()[masks.index]
    logits = rows[:, None] * torch.tensor([1.0, 2.0, -3.0])
    torch.testing.assert_close(got, (logits / 0.5).softmax(-1))
