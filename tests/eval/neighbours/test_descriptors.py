"""What stands for an image: printed values, and both networks on images of all shapes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.pixels import normalize
from ibot.eval.neighbours.descriptors import (
    PIXELS,
    MultiScale,
    Pixels,
    TokenAndGem,
    at_scale,
    gem,
    moments,
    whitening,
)
from ibot.models.backbone import build_backbone

TOY = torch.tensor([[5.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
PUBLISHED = (1.0, 0.5**0.5, 0.5)


def network(kind):
    config = {
        "vit": ModelConfig(width=24, depth=2, heads=3, patch=16),
        "swin": ModelConfig(
            kind="swin", width=8, depths=(1, 1), stage_heads=(1, 2), window=4, patch=4
        ),
    }[kind]
    torch.manual_seed(0)
    return build_backbone(config, (64, 64)).eval()


def test_gem_has_its_printed_value():
    tokens = torch.tensor([1.0, 2.0, -1.0])[None, :, None]
    assert gem(tokens).item() == pytest.approx(1.5429, abs=5e-5)
    assert gem(torch.full((1, 7, 2), 3.0)).tolist() == [[pytest.approx(3.0)] * 2]


def test_both_matrices_of_the_toy_set_are_the_printed_ones():
    mean, moment = moments(TOY, block=2)
    want = [[11.67, 4.67], [4.67, 6.67]]
    np.testing.assert_allclose(moment, want, atol=5e-3)
    covariance = moment - torch.outer(mean, mean)
    np.testing.assert_allclose(covariance, [[2.67, -1.33], [-1.33, 2.67]], atol=5e-3)


@pytest.fixture
def rows():
    """Of a different spread in each direction, around 2."""
    spread = np.array([1.0, 5, 0.5, 2, 3, 0.2])
    drawn = np.random.default_rng(0).normal(size=(500, 6)) * spread
    return torch.from_numpy(drawn + 2).float()


@pytest.mark.parametrize("centred", [True, False])
def test_whitened_rows_have_no_direction_of_their_own(rows, centred):
    white = whitening(rows, centred=centred, block=64)
    # As published the mean is taken from the rows, but not from the matrix.
    made = white(rows if centred else rows + white.mean.float())
    torch.testing.assert_close(made.T @ made / 500, torch.eye(6), atol=1e-4, rtol=0)
    assert white(rows).mean(dim=0).abs().max() < 1e-5


def test_directions_in_which_images_do_not_differ_are_not_blown_up(rows):
    flat = rows * torch.tensor([1, 1, 1, 1, 1, 0])
    white = whitening(flat, centred=True)
    moved = white(flat + torch.tensor([0, 0, 0, 0, 0, 1e-3]))
    assert (moved - white(flat)).abs().max() < 0.1


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("shape", [(48, 80), (50, 37), (23, 61), (3, 5), (1, 40)], ids=str)
def test_every_shape_has_its_descriptor(kind, shape):
    backbone, images = network(kind), torch.randn(1, 3, *shape)
    with torch.inference_mode():
        rows = MultiScale(PUBLISHED).compute(backbone, images)
        assert rows.shape == (1, backbone.embed_dim) and rows.norm().item() == pytest.approx(1)
        both = TokenAndGem().compute(backbone, images)
    assert both.shape == (1, 2 * backbone.embed_dim) and both.isfinite().all()
    assert (both[:, backbone.embed_dim :] >= 1e-7).all(), "means of positive parts"


@torch.inference_mode()
def test_scales_are_resized_and_averaged_as_published():
    backbone, images = network("vit"), torch.randn(1, 3, 90, 61)
    total = torch.zeros(1, backbone.embed_dim)
    for scale in PUBLISHED:
        resized = images
        if scale != 1:
            resized = F.interpolate(
                images, scale_factor=scale, mode="bilinear", align_corners=False
            )
        total += backbone(resized).cls
    total /= 3
    want = total / total.norm()
    torch.testing.assert_close(MultiScale(PUBLISHED).compute(backbone, images), want)
    other = MultiScale((1.0,)).compute(backbone, images)
    assert (other - want).abs().max() > 1e-3


def test_sides_never_fall_below_what_a_network_sees():
    assert at_scale(torch.zeros(1, 3, 40, 100), 0.25, 16).shape[-2:] == (16, 25)
    assert at_scale(torch.zeros(1, 3, 40, 100), 0.5, 16).shape[-2:] == (20, 50)


@torch.inference_mode()
def test_pixels_are_compared_by_their_correlation():
    random = np.random.default_rng(0)
    images = random.integers(0, 120, (2, 40, 30, 3), dtype=np.uint8)
    brighter = np.stack([images[0], images[0] * 2, images[1]])
    seen = np.stack([PIXELS.render(image) for image in brighter])
    backbone = network("vit")
    views = normalize(torch.from_numpy(seen).permute(0, 3, 1, 2), backbone.statistics)
    rows = F.normalize(Pixels().compute(backbone, views), dim=1)
    plain = torch.from_numpy(
        np.stack([np.asarray(Image.fromarray(i).resize((32, 32), 3)) for i in brighter])
    )
    want = np.corrcoef(plain.permute(0, 3, 1, 2).flatten(1).double())
    np.testing.assert_allclose(rows @ rows.T, want, atol=1e-5)
    assert want[0, 1] > 0.99 > 0.5 > want[0, 2]
