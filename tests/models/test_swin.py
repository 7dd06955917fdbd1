"""The Swin backbone against a slow, obvious one: one window, one pair of tokens at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone
from ibot.models.swin import SwinTransformer
from ibot.models.windows import shift_penalty

CONFIG = ModelConfig(
    kind="swin",
    width=8,
    depths=(2, 3),
    stage_heads=(2, 4),
    window=4,
    patch=4,
    mlp_ratio=2.0,
    drop_path=0.0,
)


def plain_block(block, x: Tensor, side: int, shift: int) -> Tensor:
    """One image [h, w, C]; windows cut by hand on the rolled, padded map (spec 3.2.3)."""
    height, width, channels = x.shape
    rows, columns = math.ceil(height / side) * side, math.ceil(width / side) * side
    padded = torch.zeros(rows, columns, channels, dtype=x.dtype)
    padded[:height, :width] = block.norm1(x)
    rolled = torch.empty_like(padded)
    for i in range(rows):
        for j in range(columns):
            rolled[i, j] = padded[(i + shift) % rows, (j + shift) % columns]

    def region(i: int, length: int) -> int:
        return 0 if i < length - side else (1 if i < length - shift else 2)

    mixed = torch.empty_like(rolled)
    heads, head_width = block.attn.heads, channels // block.attn.heads
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            places = [(top + i, left + j) for i in range(side) for j in range(side)]
            qkv = block.attn.qkv(torch.stack([rolled[p] for p in places]))
            out = torch.empty(len(places), channels, dtype=x.dtype)
            for head in range(heads):
                q, k, v = (
                    qkv[
                        :, n * channels + head * head_width : n * channels + (head + 1) * head_width
                    ]
                    for n in range(3)
                )
                for a, (i, j) in enumerate(places):
                    scores = []
                    for b, (m, n) in enumerate(places):
                        row = (i - m + side - 1) * (2 * side - 1) + (j - n + side - 1)
                        score = q[a] @ k[b] / math.sqrt(head_width)
                        score = score + block.attn.relative_position_bias_table[row, head]
                        apart = (region(i, rows), region(j, columns)) != (
                            region(m, rows),
                            region(n, columns),
                        )
                        scores.append(score - 100 if shift and apart else score)
                    out[a, head * head_width : (head + 1) * head_width] = (
                        torch.softmax(torch.stack(scores), 0) @ v
                    )
            for place, value in zip(places, block.attn.proj(out), strict=True):
                mixed[place] = value
    back = torch.empty_like(mixed)
    for i in range(rows):
        for j in range(columns):
            back[(i + shift) % rows, (j + shift) % columns] = mixed[i, j]
    x = x + back[:height, :width]
    return x + block.mlp(block.norm2(x))


def plain_swin(
    net: SwinTransformer, image: Tensor, hidden: Tensor | None, sides: list[int], shifts: list[int]
):
    """Tokens [1 + N, D] of one image [3, H, W]; `hidden` bool [h, w] on the output grid."""
    x = nn.functional.conv2d(
        image[None], net.patch_embed.proj.weight, net.patch_embed.proj.bias, stride=4
    )[0]
    x = net.patch_embed.norm(x.permute(1, 2, 0))
    if hidden is not None:
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                if hidden[i * hidden.shape[0] // x.shape[0], j * hidden.shape[1] // x.shape[1]]:
                    x[i, j] = net.masked_embed[0]
    for stage, side, shift in zip(net.layers, sides, shifts, strict=True):
        for number, block in enumerate(stage.blocks):
            x = plain_block(block, x, side, shift if number % 2 else 0)
        if stage.downsample is not None:
            height, width, channels = x.shape
            merged = torch.zeros(
                math.ceil(height / 2), math.ceil(width / 2), 4 * channels, dtype=x.dtype
            )
            for i in range(height):
                for j in range(width):
                    place = (i % 2) + 2 * (j % 2)
                    merged[i // 2, j // 2, place * channels : (place + 1) * channels] = x[i, j]
            x = stage.downsample.reduction(stage.downsample.norm(merged))
    x = net.norm(x).flatten(0, 1)
    return torch.cat([x.mean(0, keepdim=True), x])


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (36, 20)], ids=str)
@torch.no_grad()
def test_tokens_equal_those_of_the_slow_reference(size):
    torch.manual_seed(sum(size))
    net = build_backbone(CONFIG, (32, 32), masked=True).double().eval()
    net.masked_embed.normal_()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    masks = None
    if not any(side % 8 for side in size):
        masks = torch.rand(2, size[0] // 8, size[1] // 8) < 0.4
    out = net(images, None if masks is None else masks.flatten(1))
    got = torch.cat([out.cls[:, None], out.patches], 1)
    for i in range(2):
        # Built for 32 pixels: stages of 8 and 4 tokens, so that the second neither shifts nor
        # shrinks.
        want = plain_swin(net, images[i], None if masks is None else masks[i], [4, 4], [2, 0])
        torch.testing.assert_close(got[i], want, rtol=1e-12, atol=1e-12)


def fill(name: str, shape) -> Tensor:
    """The fill rule of the specification's check values (appendix of section 3)."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    code = sum(name.encode()) % 100
    values = 0.3 * torch.from_numpy(
        ((31 * i * i + 17 * i + 101 * code) % 10007) / 10007 - 0.5
    ).reshape(shape)
    return values + 1 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else values


@pytest.mark.parametrize(
    ("side", "masked", "count", "total", "squares"),
    [
        (64, False, 65, -140.810000077, 3077.326886518),
        (64, True, 65, -141.601391349, 3076.797408784),
        (40, False, 26, -61.457781478, 1213.686551500),
        (40, True, 26, -61.587406664, 1214.267454346),
        (36, False, 26, -62.231647611, 1215.368290375),
    ],
)
@torch.no_grad()
def test_check_values_of_the_specification(side, masked, count, total, squares):
    config = ModelConfig(
        kind="swin", width=12, depths=(2, 2), stage_heads=(2, 4), window=4, patch=4, drop_path=0.0
    )
    net = build_backbone(config, (64, 64), masked=True).double().eval()
    for name, p in net.named_parameters():
        p.copy_(fill(name, p.shape))
    i = np.arange(2 * 3 * side * side, dtype=np.int64)
    images = 4 * torch.from_numpy(((31 * i * i + 17 * i) % 10007) / 10007 - 0.5).reshape(
        2, 3, side, side
    )
    mask = None
    if masked:
        mask = torch.zeros(2, side // 8, side // 8, dtype=torch.bool)
        mask[0, 0, 1] = mask[1, -1, 0] = True
        mask = mask.flatten(1)
    out = net(images, mask)
    tokens = torch.cat([out.cls[:, None], out.patches], 1)
    assert tokens.shape == (2, count, 24)
    assert [tokens.sum().item(), tokens.square().sum().item()] == pytest.approx(
        [total, squares], rel=1e-11
    )


@pytest.mark.parametrize("size", [(64, 64), (40, 40), (96, 32), (36, 72)], ids=str)
def test_any_size_is_taken_and_every_parameter_gets_a_gradient(size):
    torch.manual_seed(0)
    net = build_backbone(CONFIG, (32, 32), masked=True)
    assert (
        isinstance(net, Backbone) and net.patch_size == CONFIG.stride == 8 and net.embed_dim == 16
    )
    grid = net.token_grid(*size)
    mask = None
    if not any(side % 8 for side in size):
        mask = torch.zeros(2, grid[0] * grid[1], dtype=torch.bool)
        mask[0, 0] = True
    out = net(torch.randn(2, 3, *size), mask)
    assert out.grid == grid and out.patches.shape == (2, grid[0] * grid[1], 16)
    (out.cls.square().sum() + out.patches.square().sum()).backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert missing == ([] if mask is not None else ["masked_embed"])


@pytest.mark.parametrize("size", [(96, 40), (40, 96)], ids=str)
def test_windows_follow_the_shorter_side(size):
    net = build_backbone(CONFIG, size)
    assert [[(b.side, b.shift) for b in stage.blocks][:2] for stage in net.layers] == [
        [(4, 0), (4, 2)],
        [(4, 0), (4, 2)],
    ]
    net = build_backbone(CONFIG, tuple(side - 8 for side in size))
    assert [stage.blocks[1].shift for stage in net.layers] == [2, 0]


def test_rates_of_stochastic_depth_rise_over_all_stages():
    net = build_backbone(CONFIG, (32, 32), drop_path=0.4)
    rates = [block.drop_path.rate for block in net.blocks_for_sharding()]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert net.num_blocks == 5 and net.blocks_for_sharding()[2] is net.layers[1].blocks[0]


@torch.no_grad()
def test_each_block_gives_its_own_output_and_attention():
    torch.manual_seed(4)
    net = build_backbone(CONFIG, (64, 64)).double()
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    images = torch.randn(2, 3, 40, 72, dtype=torch.float64)
    x, outputs, maps = net.patch_embed(images), [], []
    for stage in net.layers:
        for block in stage.blocks:
            maps.append(block.window_probabilities(x))
            x = block(x)
            outputs.append(x)
        x = x if stage.downsample is None else stage.downsample(x)
    for num in (1, 3, 4, 5):
        for norm in (True, False):
            layers = net.last_layers(images, num, norm=norm)
            assert len(layers) == num
            for place, layer in zip(range(5 - num, 5), layers, strict=True):
                want = net.norm(outputs[place]) if norm and place > 1 else outputs[place]
                torch.testing.assert_close(layer.patches, want.flatten(1, 2))
                torch.testing.assert_close(layer.cls, want.flatten(1, 2).mean(1))
                assert layer.grid == tuple(want.shape[1:3])
    torch.testing.assert_close(net.last_layers(images, 1)[0].cls, net.norm(x).flatten(1, 2).mean(1))
    for place in (*range(5), -1, -5):
        torch.testing.assert_close(net.attention_maps(images, place), maps[place])
    torch.testing.assert_close(net.attention_maps(images), maps[4])


@pytest.mark.parametrize("num", [0, 6])
def test_more_blocks_than_there_are_cannot_be_asked_for(num):
    with pytest.raises(ValueError, match=f"last {num} of 5"):
        build_backbone(CONFIG, (32, 32)).last_layers(torch.randn(1, 3, 32, 32), num)


def test_windows_and_shifts_follow_the_size_at_construction():
    net = build_backbone(ModelConfig(kind="swin", width=24, patch=4, window=14), (224, 224))
    assert [[(b.side, b.shift) for b in stage.blocks][:2] for stage in net.layers] == [
        [(14, 0), (14, 7)],
        [(14, 0), (14, 7)],
        [(14, 0), (14, 0)],
        [(7, 0), (7, 0)],
    ]


def test_hidden_cells_do_not_leak_into_the_output():
    net = build_backbone(CONFIG, (32, 32), masked=True)
    images, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True
    other = images.clone()
    other[:, :, 8:16, 8:16] += 1.0  # the pixels of cell 5
    assert torch.equal(net(images, mask).cls, net(other, mask).cls)
    assert not torch.equal(net(images).cls, net(other).cls)


def test_masked_sides_that_are_no_multiple_of_the_stride_are_refused():
    net = build_backbone(CONFIG, (32, 32), masked=True)
    with pytest.raises(ValueError, match="multiples of 8"):
        net(torch.randn(1, 3, 36, 36), torch.zeros(1, 16, dtype=torch.bool))


def test_chosen_rows_and_last_layers_are_those_of_the_whole_output():
    torch.manual_seed(1)
    net = build_backbone(CONFIG, (32, 32)).double()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    out = net(images)
    flat = torch.cat([out.cls[:, None], out.patches], 1).flatten(0, 1)
    rows = torch.tensor([0, 17, 34, 5, 50, 20])
    torch.testing.assert_close(net.forward_rows(images, None, rows), flat[rows])
    layers = net.last_layers(images, 5)
    assert [part.patches.shape[1:] for part in layers] == [(64, 8)] * 2 + [(16, 16)] * 3
    torch.testing.assert_close(layers[-1].patches, out.patches)
    torch.testing.assert_close(layers[0].cls, layers[0].patches.mean(1))
    with pytest.raises(ValueError, match="of 5 blocks"):
        net.last_layers(images, 6)


def test_attention_probabilities_mix_values_into_what_the_fused_path_gives():
    torch.manual_seed(2)
    net = build_backbone(CONFIG, (32, 32)).double()
    block = net.layers[0].blocks[1]
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    windows, penalty = block._windows(x)
    probabilities = block.window_probabilities(x)
    assert probabilities.shape == (2 * 4, 2, 16, 16)
    v = block.attn.qkv(windows).unflatten(-1, (3, 2, 4))[..., 2, :, :].flatten(0, 1).transpose(1, 2)
    plain = block.attn.proj((probabilities @ v).transpose(1, 2).flatten(2)).unflatten(0, (2, 4))
    torch.testing.assert_close(block.attn(windows, penalty), plain)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert net.attention_maps(images).shape == (2, 4, 16, 16)
    assert net.attention_maps(images, 0).shape == (2 * 4, 2, 16, 16)


def test_a_penalty_first_made_in_an_evaluation_serves_training():
    shift_penalty.cache_clear()
    net = build_backbone(CONFIG, (32, 32))
    with torch.inference_mode():
        net(torch.randn(1, 3, 32, 32))
    assert shift_penalty.cache_info().currsize == 1
    net(torch.randn(1, 3, 32, 32)).cls.sum().backward()
    assert shift_penalty.cache_info().currsize == 1


def test_stochastic_depth_drops_whole_samples():
    torch.manual_seed(0)
    net = build_backbone(CONFIG, (32, 32), drop_path=0.5).train()
    images = torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1)
    assert len({round(value, 4) for value in net(images).cls[:, 0].tolist()}) > 1
    assert len({round(value, 5) for value in net.eval()(images).cls[:, 0].tolist()}) == 1


def test_a_swin_knows_how_its_images_are_normalised():
    config = replace(CONFIG, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert build_backbone(config, (32, 32)).statistics == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
