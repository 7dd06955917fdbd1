"""What the network sees of a frame, and what becomes of its soft maps."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.errors import UserError
from ibot.eval.dense.video.frame_tokens import (
    PUBLISHED_STD,
    frame_tokens,
    input_size,
    mask_from_soft,
    soft_from_mask,
)
from ibot.models.backbone import build_backbone

VIT = ModelConfig(width=24, depth=2, heads=3, patch=8)
SWIN = ModelConfig(kind="swin", width=8, depths=(1, 1), stage_heads=(1, 2), window=4, patch=4)


@pytest.mark.parametrize(
    ("frame", "patch", "want"),
    [  # at 480
        ((480, 854), 16, (480, 832)),
        ((854, 480), 16, (832, 480)),
        ((480, 480), 16, (480, 448)),
        ((240, 427), 8, (480, 832)),
        ((1080, 1920), 32, (480, 832)),
        ((7, 9), 16, (480, 576)),
        ((480, 854), 14, (476, 840)),
    ],
)
def test_one_rule_of_sizes_for_any_aspect(frame, patch, want):
    assert input_size(*frame, 480, patch) == want


def test_small_sizes_keep_the_aspect_too():
    assert input_size(480, 854, 240, 8) == (240, 416)
    assert input_size(854, 480, 64, 8) == (112, 64)
    assert input_size(480, 854, 960, 16) == (960, 1664)


def test_sizes_hold_whole_patches_and_at_least_one():
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width, size = random.integers(1, 900, 3).tolist()
        patch = int(random.choice([4, 8, 14, 16, 32]))
        if size < patch:
            with pytest.raises(UserError, match="smaller than a patch"):
                input_size(height, width, size, patch)
            continue
        found = input_size(height, width, size, patch)
        assert all(side > 0 and side % patch == 0 for side in found)
        assert found[int(width < height)] == size // patch * patch


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
def test_tokens_are_those_of_the_last_block_of_the_frame_as_opencv_resizes_it(config):
    torch.manual_seed(0)
    backbone = build_backbone(config, (32, 32)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (33, 50, 3)).astype(np.uint8)
    statistics = (0.485, 0.456, 0.406), PUBLISHED_STD
    with torch.no_grad():
        found = frame_tokens(pixels, (64, 80), backbone, statistics)
        resized = cv2.resize(pixels, (80, 64)).astype(np.float32) / 255
        image = (resized - np.float32(statistics[0])) / np.float32(statistics[1])
        (out,) = backbone.last_layers(torch.from_numpy(image).permute(2, 0, 1)[None], 1)
    want = F.normalize(out.patches[0], dim=-1).view(8, 10, -1)
    assert torch.allclose(found, want, atol=1e-5)


def test_pixels_as_tokens_are_the_patches_themselves():
    backbone = build_backbone(VIT, (32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    found = frame_tokens(pixels, (16, 24), backbone, ((0.5,) * 3, (1.0,) * 3), "pixels")
    assert found.shape == (2, 3, 192)
    patch = torch.from_numpy(pixels[8:16, 16:24]).float().permute(2, 0, 1).flatten() / 255 - 0.5
    assert torch.allclose(found[1, 2], patch / patch.norm(), atol=1e-5)


def test_masks_become_soft_maps_by_the_nearest_pixel():
    mask = np.random.default_rng(0).choice(np.array([0, 1, 7], np.uint8), (30, 41))
    soft = soft_from_mask(mask, (1, 7), (4, 6))
    small = np.asarray(Image.fromarray(mask).resize((6, 4), Image.Resampling.NEAREST))
    assert soft.shape == (4, 6, 3) and torch.equal(soft.sum(-1), torch.ones(4, 6))
    assert np.array_equal(np.array([0, 1, 7])[soft.argmax(-1)], small)


def test_soft_maps_become_masks_by_the_published_steps():
    """Upsampled, each channel stretched by itself, the largest taken, resized by the nearest."""
    soft = torch.rand(5, 7, 3).softmax(-1)
    maps = F.interpolate(soft.permute(2, 0, 1)[None], scale_factor=4, mode="bilinear")[0]
    for channel in maps:
        channel -= channel.min().clone()
        channel /= channel.max().clone()
    numbers = np.array([0, 3, 4], np.uint8)[maps.argmax(0)]
    want = np.asarray(Image.fromarray(numbers).resize((33, 25), Image.Resampling.NEAREST))
    assert np.array_equal(mask_from_soft(soft, (3, 4), 4, (25, 33)), want)


def test_an_object_that_fills_the_frame_and_one_that_left_it():
    rounding = 1 + 1e-7 * torch.randn(4, 6)
    full = torch.stack([torch.zeros(4, 6), rounding], dim=-1)
    assert (mask_from_soft(full, (1,), 8, (32, 48)) == 1).all()
    assert (mask_from_soft(full.flip(-1), (1,), 8, (32, 48)) == 0).all()
