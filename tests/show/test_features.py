"""Patch tokens of images as colours: the fit over a set."""

import numpy as np
import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.show import features
from ibot.show.components import border_of, fit_components
from ibot.show.features import Tokens, features_of, fit_over, tokens_of
from ibot.show.inputs import WholeView, network_input

VIT = ModelConfig(width=24, depth=1, heads=2, patch=4)
SWIN = ModelConfig(kind="swin", width=8, depths=(1, 1), stage_heads=(1, 2), window=4, patch=4)


@pytest.mark.parametrize("config", [VIT, SWIN])
def test_tokens_are_those_of_the_view_after_the_final_norm(config):
    backbone = build_backbone(config, (32, 32)).eval()
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    found = tokens_of(backbone, image, WholeView(32))
    with torch.no_grad():
        want = backbone(network_input(WholeView(32).render(image, backbone.patch_size), backbone))
    assert torch.equal(found.patches, want.patches[0]) and found.grid == want.grid
    assert found.view.shape[:2] == tuple(backbone.patch_size * side for side in found.grid)


def test_colours_of_a_set_are_fitted_to_it_together():
    backbone = build_backbone(VIT, (32, 32)).eval()
    rng = np.random.default_rng(1)
    images = [rng.random((16, 24, 3)), rng.random((32, 16, 5)), rng.random((16, 16))]
    colours, fitted = features_of(backbone, images, WholeView(16))
    assert [one.shape for one in colours] == [(4, 6, 3), (8, 4, 3), (4, 4, 3)]
    tokens = [tokens_of(backbone, image, WholeView(16)) for image in images]
    border = torch.cat([border_of(one.grid) for one in tokens])
    want = fit_components(torch.cat([one.patches for one in tokens]), border)
    assert want.steps == fitted.steps
    for one, shown in zip(tokens, colours, strict=True):
        np.testing.assert_array_equal(shown.reshape(-1, 3), want.colours(one.patches).rgb.numpy())
    whole, fitted = features_of(backbone, images, WholeView(16), foreground=False)
    assert fitted.split_axis is None and whole[0].shape == (4, 6, 3)
    with pytest.raises(ValueError, match="no images"):
        features_of(backbone, [])


def test_large_sets_are_fitted_to_an_even_choice_of_patches(monkeypatch):
    monkeypatch.setattr(features, "MOST_FITTED", 40)
    tokens = torch.randn(2, 100, 6, generator=torch.Generator().manual_seed(0))
    sets = [Tokens(np.zeros((10, 10, 3), np.uint8), one, (10, 10)) for one in tokens]
    taken = np.linspace(0, 99, 20).round().astype(int)
    want = fit_components(tokens[:, taken].flatten(0, 1), border_of((10, 10))[taken].repeat(2))
    got = fit_over(sets, 2)
    assert torch.equal(got.axes, want.axes) and torch.equal(got.low, want.low)
