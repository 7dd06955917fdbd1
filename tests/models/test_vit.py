import pytest
import torch

from ibot.config.schema import HeadConfig, ModelConfig
from ibot.models.backbone import Backbone, build_backbone
from ibot.models.head import ProjectionHead
from ibot.models.layers import Attention, DropPath

CONFIG = ModelConfig(width=24, depth=3, heads=3, patch=8, drop_path=0.0)
VARIANTS = [
    {},
    {"layer_scale": 0.1},
    {"mean_pooling": True},
    {"registers": 2},
    {"pos_size": (40, 24)},
    {"pos_interp": "exact"},
    {"init": "xavier"},
]


def variant(**changes) -> ModelConfig:
    from dataclasses import replace

    return replace(CONFIG, **changes)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(32, 32), (16, 40), (20, 33)])
def test_every_variant_takes_any_size_and_gives_every_parameter_a_gradient(changes, size):
    torch.manual_seed(0)
    backbone = build_backbone(variant(**changes), (32, 32), masked=True)
    assert isinstance(backbone, Backbone)
    grid = (size[0] // 8, size[1] // 8)
    mask = torch.zeros(2, grid[0] * grid[1], dtype=torch.bool)
    mask[0, 0] = True
    out = backbone(torch.randn(2, 3, *size), mask)
    assert out.grid == grid and out.cls.shape == (2, 24) and out.patches.shape == (2, grid[0] * grid[1], 24)
    (out.cls.square().sum() + out.patches.square().sum()).backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_chosen_rows_equal_those_of_the_whole_output(changes):
    torch.manual_seed(1)
    backbone = build_backbone(variant(**changes), (32, 32), masked=True).double()
    images, mask = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.rand(3, 16) < 0.3
    out = backbone(images, mask)
    flat = torch.cat([out.cls[:, None], out.patches], 1).flatten(0, 1)
    rows = torch.tensor([0, 17, 34, 5, 50, 20])
    torch.testing.assert_close(backbone.forward_rows(images, mask, rows), flat[rows])


def test_hidden_patches_do_not_leak_into_the_output():
    backbone = build_backbone(CONFIG, (32, 32), masked=True)
    images, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True
    other = images.clone()
    other[:, :, 8:16, 8:16] += 1.0  # the pixels of patch 5
    a, b = backbone(images, mask), backbone(other, mask)
    assert torch.equal(a.cls, b.cls) and torch.equal(a.patches, b.patches)
    assert not torch.equal(backbone(images).cls, backbone(other).cls)


def test_attention_probabilities_are_those_of_the_fused_path():
    torch.manual_seed(0)
    attention = Attention(24, 3).double()
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    _, _, v = attention.split_heads(x)
    plain = (attention.probabilities(x) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.attend(x), plain)


def test_bfloat16_attention_on_the_cpu_equals_the_float32_one_within_its_precision():
    torch.manual_seed(0)
    attention = Attention(64, 2)
    x = torch.randn(4, 17, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got = attention.attend(x)
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.float(), attention.attend(x), rtol=0.05, atol=0.02)
    grads = []
    for cast in (True, False):
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = attention.attend(x).float().square().sum()
        loss.backward()
        grads.append(attention.qkv.weight.grad.clone())
    assert (grads[0] - grads[1]).norm() / grads[1].norm() < 0.03


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.4)
    out = drop(torch.ones(4000, 3, 2), 4000, None)
    per_sample = out.flatten(1)
    assert ((per_sample == 0).all(1) | torch.isclose(per_sample, torch.tensor(1 / 0.6)).all(1)).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    rows = torch.tensor([0, 0, 1, 3, 3])
    got = drop(torch.ones(5, 2), 4, rows)
    assert torch.equal(got[0], got[1]) and torch.equal(got[3], got[4])
    assert torch.equal(drop.eval()(torch.ones(2, 1, 1), 2, None), torch.ones(2, 1, 1))


def test_rates_of_stochastic_depth_rise_linearly():
    backbone = build_backbone(ModelConfig(drop_path=0.1), (224, 224), drop_path=0.1)
    rates = [block.drop_path.rate for block in backbone.blocks]
    assert rates[0] == 0 and rates[1] == pytest.approx(0.1 / 11) and rates[-1] == pytest.approx(0.1)


def test_initial_weights_have_the_published_spread():
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(width=192, depth=2, heads=3, patch=16), (224, 224), masked=True)
    for name, p in backbone.named_parameters():
        if name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")) and "patch_embed" not in name:
            assert p.std().item() == pytest.approx(0.02, rel=0.03), name
        elif (name.endswith(".bias") and "patch_embed" not in name) or name == "masked_embed":
            assert (p == 0).all(), name
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.03)
    head = ProjectionHead(192, HeadConfig(), shared=True)
    assert head.last_layer.weight_v.abs().max() <= 1 / 16
    assert head.last_layer.weight_v.std().item() == pytest.approx(0.0361, rel=0.02)


def test_logits_of_the_head_are_cosines_when_lengths_are_fixed():
    head = ProjectionHead(
        24, HeadConfig(out_dim=50, patch_out_dim=50, bottleneck_dim=8, norm_last_layer=True), shared=True
    )
    z = head.project(torch.randn(6, 24))
    cls, patch = head.logits(z[:2], z[2:])
    assert cls.shape == (2, 50) and patch.shape == (4, 50) and max(cls.abs().max(), patch.abs().max()) <= 1 + 1e-5
    cosines = torch.nn.functional.cosine_similarity(z[0], head.last_layer.weight_v, dim=-1)
    torch.testing.assert_close(cls[0], cosines)
    assert not head.last_layer.weight_g.requires_grad


def test_half_precision_ends_before_the_logits():
    head = ProjectionHead(24, HeadConfig(out_dim=50, patch_out_dim=50), shared=True)
    with torch.autocast("cpu", torch.bfloat16):
        z = head.project(torch.randn(6, 24))
        cls, _ = head.logits(z, z[:0])
    assert z.dtype is torch.float32 and cls.dtype is torch.float32
