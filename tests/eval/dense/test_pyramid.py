"""The pyramid of maps of any backbone."""

import pytest
import torch
from torch import nn

from ibot.config.schema import ModelConfig
from ibot.eval.dense.pyramid import Pyramid
from ibot.models.backbone import build_backbone
from ibot.models.contract import MapShape

VIT = ModelConfig(width=24, depth=12, heads=3, patch=16, pos_size=(32, 32))
SWIN = ModelConfig(
    kind="swin", width=8, depths=(1, 1, 2, 1), stage_heads=(1, 2, 2, 4), window=4, patch=4
)


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize("size", [(64, 96), (160, 96)])
def test_maps_of_four_strides_come_out_of_any_backbone(config, size):
    backbone = build_backbone(config, size).eval()
    pyramid = Pyramid.of(backbone)
    maps = pyramid(backbone.maps_after(torch.randn(2, 3, *size), backbone.pyramid_blocks))
    assert pyramid.strides == (4, 8, 16, 32)
    for one, stride, channels in zip(maps, pyramid.strides, pyramid.channels, strict=True):
        assert one.shape == (2, channels, size[0] // stride, size[1] // stride)


def test_maps_of_one_stride_take_the_published_steps():
    pyramid = Pyramid([MapShape(6, 16)] * 4)
    kinds = [[type(part) for part in step.modules()] for step in pyramid.steps]
    up = nn.ConvTranspose2d
    assert kinds[0][1:] == [up, type(pyramid.steps[0][1]), nn.GELU, up]
    assert kinds[1:] == [[up], [nn.Identity], [nn.MaxPool2d]]
    maps = [torch.randn(1, 6, 2, 3) for _ in range(4)]
    finest, finer, same, coarser = pyramid.eval()(maps)
    expected = nn.functional.max_pool2d(maps[3], 2)
    assert same is maps[2] and torch.equal(coarser, expected)
    assert finest.shape[-2:] == (8, 12) and finer.shape[-2:] == (4, 6)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="strides"):
        Pyramid([MapShape(6, 4), MapShape(6, 16)])
