import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ibot.config.schema import HeadConfig, ModelConfig
from ibot.kernels.choice import using
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead
from ibot.models.layers import (
    Attention,
    Block,
    DropPath,
    PatchEmbed,
    resample_positions,
    set_part,
)

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


MORE = [
    {"norm_eps": 0.1, "mlp_ratio": 2.5},
    *({"act": act} for act in ("gelu_tanh", "quick_gelu", "relu", "silu")),
]
"""Seen in outputs alone."""


def variant(**changes) -> ModelConfig:
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
    assert (
        out.grid == grid
        and out.cls.shape == (2, 24)
        and out.patches.shape == (2, grid[0] * grid[1], 24)
    )
    (out.cls.square().sum() + out.patches.square().sum()).backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None]
    assert without == []


def cubic(distance):
    """Keys' kernel with a = -0.75, as torch has it."""
    t, a = abs(distance), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def weights_along(source, target, added):
    """Share [target, source] of each entry of a side in each of the new; ends are repeated."""
    weights = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        centre = (i + 0.5) * source / (target + added) - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            weights[i, min(max(j, 0), source - 1)] += cubic(centre - j)
    return weights


@pytest.mark.parametrize(("mode", "added"), [("published", 0.1), ("exact", 0.0)])
@pytest.mark.parametrize("table", [(4, 7), (5, 3)], ids=str)
@pytest.mark.parametrize("grid", [(4, 7), (6, 5), (3, 9), (2, 2)], ids=str)
def test_positions_are_resampled_bicubically_along_both_axes(mode, added, table, grid):
    rows = torch.randn(1, table[0] * table[1], 6, dtype=torch.float64)
    down, across = (weights_along(*sides, added) for sides in zip(table, grid, strict=True))
    want = torch.einsum("ai,bj,ijd->abd", down, across, rows[0].unflatten(0, table))
    got = resample_positions(rows, table, grid, mode)
    torch.testing.assert_close(got, want.flatten(0, 1)[None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["published", "exact"])
def test_a_square_table_is_resampled_for_crops_that_are_not_square_of_any_grid(mode):
    net = build_backbone(variant(pos_interp=mode), (32, 32))
    table = net.pos_embed[:, 1:]
    assert net.positions((4, 4), square=True) is net.pos_embed
    wide = net.positions((4, 4), square=False)
    torch.testing.assert_close(wide[:, 1:], resample_positions(table, (4, 4), (4, 4), mode))
    assert torch.equal(wide[:, :1], net.pos_embed[:, :1])
    # 32 x 39 pixels hold four by four patches: what the network adds must be the resampled table.
    images = torch.randn(2, 3, 32, 39)
    embedded = net._embed(images, None)[0]
    torch.testing.assert_close(embedded[:, 1:], net.patch_embed(images) + wide[:, 1:])
    long = build_backbone(CONFIG, (40, 24))
    assert long.positions((5, 3), square=False) is long.pos_embed
    assert long.positions((3, 5), square=False).shape == long.pos_embed.shape
    assert not torch.equal(long.positions((3, 5), square=False), long.pos_embed)


PLAIN_ACTS = {
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def plain_vit(net, config, images, mask, depth):
    """Tokens [B, 1 + N + registers, D] after `depth` blocks and before any norm, head by head."""
    patch, width, eps = config.patch, config.width, config.norm_eps
    batch, _, height, across = images.shape
    grid = height // patch, across // patch
    weight = net.patch_embed.proj.weight.flatten(1)
    tokens = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            cut = images[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            token = cut.flatten(1) @ weight.T + net.patch_embed.proj.bias
            hidden = mask[:, i * grid[1] + j, None]
            tokens.append(torch.where(hidden, net.masked_embed, token))
    x = torch.stack(tokens, 1)
    positions = net.positions(grid, square=height == across)[0]
    x = torch.cat([(net.cls_token[0] + positions[:1]).expand(batch, 1, -1), x + positions[1:]], 1)
    if net.register_tokens is not None:
        x = torch.cat([x, net.register_tokens.expand(batch, -1, -1)], 1)
    size = width // config.heads
    for block in list(net.blocks)[:depth]:
        normed = F.layer_norm(x, (width,), block.norm1.weight, block.norm1.bias, eps)
        qkv = block.attn.qkv(normed)
        mixed = []
        for head in range(config.heads):
            starts = (part * width + head * size for part in range(3))
            q, k, v = (qkv[..., start : start + size] for start in starts)
            mixed.append(torch.softmax(q @ k.mT / size**0.5, -1) @ v)
        branch = block.attn.proj(torch.cat(mixed, -1))
        x = x + (branch if block.gamma_1 is None else branch * block.gamma_1)
        normed = F.layer_norm(x, (width,), block.norm2.weight, block.norm2.bias, eps)
        branch = block.mlp.fc2(PLAIN_ACTS[config.act](block.mlp.fc1(normed)))
        x = x + (branch if block.gamma_2 is None else branch * block.gamma_2)
    return x


@pytest.mark.parametrize("changes", [*VARIANTS, *MORE], ids=str)
@pytest.mark.parametrize("size", [(16, 41)], ids=str)
@torch.no_grad()
def test_every_output_equals_that_of_a_plain_network(changes, size):
    torch.manual_seed(len(str(changes)))
    config = variant(**changes)
    net = build_backbone(config, (32, 40), masked=True).double()
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)
    assert net.blocks[0].mlp.fc1.out_features == int(config.mlp_ratio * 24)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    grid = (size[0] // 8, size[1] // 8)
    cells = grid[0] * grid[1]
    mask = torch.rand(2, cells) < 0.3
    nothing = torch.zeros(2, cells, dtype=torch.bool)

    def final(x):
        if not config.mean_pooling:
            x = F.layer_norm(x, (24,), net.norm.weight, net.norm.bias, config.norm_eps)
        cls, patches = x[:, 0], x[:, 1 : 1 + cells]
        if config.mean_pooling:
            mean = patches.mean(1)
            cls = F.layer_norm(mean, (24,), net.fc_norm.weight, net.fc_norm.bias, config.norm_eps)
        return cls, patches

    out = net(images, mask)
    cls, patches = final(plain_vit(net, config, images, mask, 3))
    torch.testing.assert_close((out.cls, out.patches), (cls, patches))
    assert out.grid == grid == net.token_grid(*size)
    after = [plain_vit(net, config, images, nothing, depth) for depth in range(4)]
    for num in (1, 2, 3):
        for norm in (True, False):
            layers = net.last_layers(images, num, norm=norm)
            assert len(layers) == num
            for layer, x in zip(layers, after[4 - num :], strict=True):
                want = final(x) if norm else (x[:, 0], x[:, 1 : 1 + cells])
                torch.testing.assert_close((layer.cls, layer.patches), want)
                assert layer.grid == grid
    (last,) = net.last_layers(images, 1)
    torch.testing.assert_close((last.cls, last.patches), final(after[3]))
    for place in (0, 1, 2, -1, -3):
        block = net.blocks[place]
        want = block.attn.probabilities(block.norm1(after[place % 3]))
        torch.testing.assert_close(net.attention_maps(images, place), want)
    torch.testing.assert_close(net.attention_maps(images), net.attention_maps(images, 2))


def test_one_patch_is_enough_and_less_is_refused():
    net = build_backbone(CONFIG, (8, 15))
    assert net.pos_embed.shape == (1, 2, 24) and net(torch.randn(1, 3, 8, 8)).grid == (1, 1)
    with pytest.raises(ValueError, match=r"\(7, 40\) pixels holds no patch of 8"):
        build_backbone(CONFIG, (7, 40))


def test_a_network_knows_how_its_images_are_normalised():
    config = variant(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert build_backbone(config, (32, 32)).statistics == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


@pytest.mark.parametrize("num", [0, 4])
def test_more_blocks_than_there_are_cannot_be_asked_for(num):
    with pytest.raises(ValueError, match=f"last {num} of 3"):
        build_backbone(CONFIG, (32, 32)).last_layers(torch.randn(1, 3, 32, 32), num)


@pytest.mark.parametrize("changes", [{}, {"registers": 2, "layer_scale": 0.5}], ids=str)
def test_rows_are_dropped_with_their_own_image(changes):
    torch.manual_seed(3)
    net = build_backbone(variant(**changes), (16, 24), drop_path=0.6).double().train()
    images = torch.randn(6, 3, 16, 24, dtype=torch.float64)
    rows = torch.tensor([0, 1, 8, 13, 20, 41, 28, 35, 34, 7])
    for seed in range(3):
        torch.manual_seed(seed)
        out = net(images)
        torch.manual_seed(seed)
        some = net.forward_rows(images, None, rows)
        flat = torch.cat([out.cls[:, None], out.patches], 1).flatten(0, 1)
        torch.testing.assert_close(some, flat[rows])


def test_every_part_of_a_step_drops_the_images_that_the_whole_step_drops():
    torch.manual_seed(5)
    net = build_backbone(CONFIG, (16, 16), drop_path=0.5).double().train()
    images = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(1)
    whole = net(images).cls
    for part in range(3):
        set_part(net, part, 3)
        torch.manual_seed(1)
        torch.testing.assert_close(net(images[part::3]).cls, whole[part::3])


def test_a_block_drops_both_branches_of_an_image_by_draws_of_their_own():
    torch.manual_seed(0)
    block = Block(8, 2, 16, 0.5, layer_scale=0.0, norm_eps=1e-6, act="gelu").train()
    x = torch.randn(1, 3, 8).expand(400, -1, -1)
    with torch.no_grad():
        attended = 2 * block.attn.proj(block.attn.attend(block.norm1(x[:1])))
        out = block(x)

        def then(start):
            return start + 2 * block.mlp(block.norm2(start))

        kinds = [x[:1], then(x[:1]), x[:1] + attended, then(x[:1] + attended)]
    share = [torch.isclose(out, kind, atol=1e-5).flatten(1).all(1).float().mean() for kind in kinds]
    assert sum(share) == pytest.approx(1) and share == pytest.approx([0.25] * 4, abs=0.08)


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
    assert (
        (per_sample == 0).all(1) | torch.isclose(per_sample, torch.tensor(1 / 0.6)).all(1)
    ).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    rows = torch.tensor([0, 0, 1, 3, 3])
    got = drop(torch.ones(5, 2), 4, rows)
    assert torch.equal(got[0], got[1]) and torch.equal(got[3], got[4])
    assert torch.equal(drop.eval()(torch.ones(2, 1, 1), 2, None), torch.ones(2, 1, 1))


def test_images_whose_number_is_below_the_rate_are_dropped():
    """Which ones is part of a seed: a resumed run of an older version draws alike."""
    torch.manual_seed(0)
    kept = torch.rand(32) >= 0.4
    torch.manual_seed(0)
    assert torch.equal(DropPath(0.4)(torch.ones(32, 1, 1), 32)[:, 0, 0] > 0, kept)


def test_rates_of_stochastic_depth_rise_linearly():
    backbone = build_backbone(variant(depth=12, drop_path=0.1), (32, 32), drop_path=0.1)
    rates = [block.drop_path.rate for block in backbone.blocks]
    assert rates[0] == 0 and rates[1] == pytest.approx(0.1 / 11) and rates[-1] == pytest.approx(0.1)


def test_initial_weights_have_the_published_spread():
    torch.manual_seed(0)
    backbone = build_backbone(
        ModelConfig(width=192, depth=2, heads=3, patch=16), (224, 224), masked=True
    )
    for name, p in backbone.named_parameters():
        if (
            name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
            and "patch_embed" not in name
        ):
            assert p.std().item() == pytest.approx(0.02, rel=0.03), name
        elif (name.endswith(".bias") and "patch_embed" not in name) or name == "masked_embed":
            assert (p == 0).all(), name
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.03)
    head = ProjectionHead(192, HeadConfig(), shared=True)
    assert head.last_layer.weight_v.abs().max() <= 1 / 16
    assert head.last_layer.weight_v.std().item() == pytest.approx(0.0361, rel=0.02)


def test_logits_of_the_head_are_cosines_when_lengths_are_fixed():
    head = ProjectionHead(
        24,
        HeadConfig(out_dim=50, patch_out_dim=50, bottleneck_dim=8, norm_last_layer=True),
        shared=True,
    )
    z = head.project(torch.randn(6, 24))
    cls, patch = head.logits(z[:2], z[2:])
    assert (
        cls.shape == (2, 50)
        and patch.shape == (4, 50)
        and max(cls.abs().max(), patch.abs().max()) <= 1 + 1e-5
    )
    cosines = torch.nn.functional.cosine_similarity(z[0], head.last_layer.weight_v, dim=-1)
    torch.testing.assert_close(cls[0], cosines)
    assert not head.last_layer.weight_g.requires_grad


def test_half_precision_ends_before_the_logits():
    head = ProjectionHead(24, HeadConfig(out_dim=50, patch_out_dim=50), shared=True)
    with torch.autocast("cpu", torch.bfloat16):
        z = head.project(torch.randn(6, 24))
        cls, _ = head.logits(z, z[:0])
    assert z.dtype is torch.float32 and cls.dtype is torch.float32


@pytest.mark.parametrize(("size", "channels"), [((32, 24), 3), ((19, 40), 5)])
def test_patches_cut_and_projected_equal_the_convolution_in_values_and_gradients(size, channels):
    torch.manual_seed(0)
    embed = PatchEmbed(8, 12, channels).double()
    images = torch.randn(3, channels, *size, dtype=torch.float64, requires_grad=True)
    found = []
    for mode in ("reference", "auto"):
        with using(mode) as choices:
            tokens = embed(images)
        assert ("patch embedding" in choices.taken) == (mode == "auto")
        grads = torch.autograd.grad(tokens.square().sum(), [images, *embed.parameters()])
        found.append([tokens, *grads])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    with using("auto"), pytest.raises(RuntimeError, match="Kernel size"):
        embed(images[..., :7, :])
