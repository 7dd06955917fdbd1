"""A third backbone, which has neither attention nor stages, goes through evaluations as it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ibot.config.schema import ModelConfig
from ibot.data.pixels import normalize
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.scan import scan
from ibot.eval.features.cache import cached_features
from ibot.eval.features.tokens import Feature, compute, extract_features, probe_feature
from ibot.eval.features.views import View
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.eval.tune.layer_decay import parameter_groups
from ibot.eval.tune.network import Classifier
from ibot.eval.tune.settings import FinetuneSettings
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone, MapShape
from ibot.models.layers import DropPath
from ibot.show.attention import class_attention
from ibot.types import TokenOutput

VIT = ModelConfig(width=24, depth=12, heads=3, patch=8)
SWIN = ModelConfig(kind="swin", width=8, depths=(2, 1, 3), stage_heads=(1, 2, 2), window=4, patch=4)


class Mixing(nn.Module):
    """A depthwise convolution beside the map."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.drop_path = DropPath(0.0)

    def forward(self, x, drop=None):
        factor = None if drop is None else drop[0]
        return x + self.drop_path(self.conv(x).tanh(), x.shape[0], None, factor)


class Averaged(Backbone):
    """Patches by a convolution, mixed by others; the class token is their mean."""

    family = "mean"

    def __init__(self, width=12, depth=3, patch=8):
        super().__init__(
            embed_dim=width,
            patch_size=patch,
            depths=(depth,),
            statistics=((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
        )
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(Mixing(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def token_grid(self, height, width):
        return height // self.patch_size, width // self.patch_size

    def forward(self, images, mask=None, drop=None):
        return self.last_layers(images, 1, drop=drop)[0]

    def last_layers(self, images, num, norm=True, drop=None):
        x, outputs = self.patch_embed(images), []
        for block, factors in zip(self.blocks, self.factors_of_blocks(drop), strict=True):
            x = block(x, factors)
            tokens = x.flatten(2).transpose(1, 2)
            tokens = self.norm(tokens) if norm else tokens
            outputs.append(TokenOutput(tokens.mean(dim=1), tokens, tuple(x.shape[-2:])))
        return outputs[-num:]

    def blocks_for_sharding(self):
        return list(self.blocks)


@pytest.fixture
def third():
    torch.manual_seed(0)
    return Averaged().eval()


@pytest.fixture
def folder(tmp_path):
    """Dark and bright noise, two classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label, low in (("dark", 0), ("light", 150)):
            place = tmp_path / "images" / part / label
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(low, low + 100, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path / "images"


@torch.no_grad()
def test_its_features_are_those_of_its_tokens(third):
    images = torch.randn(2, 3, 32, 40)
    normed, plain = third.last_layers(images, 3), third.last_layers(images, 1, norm=False)
    want = {
        Feature(1, 0): normed[2].cls,
        Feature(3, 0): torch.cat([layer.cls for layer in normed], 1),
        Feature(1, 1): plain[0].patches.mean(1),
        Feature(1, 2): torch.cat([normed[2].cls, normed[2].patches.mean(1)], 1),
    }
    found = compute(third, images, list(want))
    for feature, rows in want.items():
        torch.testing.assert_close(found[feature], rows)
    assert str(probe_feature(third)) == "n3m0"
    assert str(probe_feature(Averaged(width=768, depth=1))) == "n1m0", "the mean is no second part"
    rows = torch.tensor([0, 21, 25])
    flat = torch.cat([normed[2].cls[:, None], normed[2].patches], 1).flatten(0, 1)
    torch.testing.assert_close(third.forward_rows(images, None, rows), flat[rows])


def test_neighbours_and_the_cache_of_features_take_it(third, folder, tmp_path):
    bank, queries = (
        extract_features(third, scan(folder / part), size=32) for part in ("train", "val")
    )
    assert knn_accuracy(bank, test=queries, ks=3, temperature=0.07)[3].top1 == 100
    images, view, feature = open_folder(folder / "val"), View((32, 32), "crop"), Feature()
    kept = cached_features(third, "third", images, view, [feature], tmp_path / "cache")[feature]
    torch.testing.assert_close(kept.rows, queries.cls, rtol=1e-4, atol=1e-5)
    pixels = torch.from_numpy(np.array(Image.open(folder / "val" / "dark" / "0.png")))
    with torch.no_grad():
        one = third(normalize(pixels.permute(2, 0, 1)[None], third.statistics)).cls
    torch.testing.assert_close(kept.rows[:1], one, rtol=1e-4, atol=1e-5)


def test_it_is_fine_tuned_layer_by_layer(third):
    classifier = Classifier(third, 5, FinetuneSettings(drop_path=0.4, init_scale=1.0))
    assert [block.drop_path.rate for block in third.blocks] == pytest.approx([0.0, 0.2, 0.4])
    images = torch.randn(2, 3, 32, 32)
    want = classifier.head(third(images).cls)
    torch.testing.assert_close(classifier.eval()(images), want)
    named = [(name.removeprefix("backbone."), p) for name, p in classifier.named_parameters()]
    groups = parameter_groups(
        named, third.depths, layer_decay=0.5, weight_decay=0.05, decay_tokens=False
    )
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    got = {name: scales[id(p)] for name, p in named if name.endswith("weight")}
    assert got == {
        "patch_embed.weight": 0.5**4,
        "blocks.0.conv.weight": 0.5**3,
        "blocks.1.conv.weight": 0.5**2,
        "blocks.2.conv.weight": 0.5,
        "norm.weight": 1.0,
        "head.weight": 1.0,
    }


def test_blocks_under_other_names_are_refused(third):
    third.layer_list = third.blocks
    del third.blocks
    with pytest.raises(ValueError, match="no parameter is named as one of layer 1 of 3"):
        parameter_groups(
            third.named_parameters(),
            third.depths,
            layer_decay=0.5,
            weight_decay=0.05,
            decay_tokens=False,
        )


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
def test_a_pyramid_is_made_of_its_blocks_or_stages(third, norm):
    images = torch.randn(2, 3, 64, 96)
    pyramids = {
        Averaged: (third, (1, 1, 2, 3), 4 * [MapShape(12, 8)]),
        "vit": (build_backbone(VIT, (64, 96)), (4, 6, 8, 12), 4 * [MapShape(24, 8)]),
        "swin": (
            build_backbone(SWIN, (64, 64)),
            (2, 3, 6),
            [MapShape(8, 4), MapShape(16, 8), MapShape(32, 16)],
        ),
    }
    for network, blocks, shapes in pyramids.values():
        assert network.pyramid_blocks == blocks
        assert [network.map_shape(block) for block in blocks] == shapes
        maps = network.maps_after(images, blocks, norm)
        layers = network.last_layers(images, network.num_blocks, norm)
        for block, (channels, stride), found in zip(blocks, shapes, maps, strict=True):
            assert found.shape == (2, channels, 64 // stride, 96 // stride)
            rows = found.permute(0, 2, 3, 1).flatten(1, 2)
            torch.testing.assert_close(rows, layers[block - 1].patches)
        for wrong in ((), (0, 1), (network.num_blocks + 1,)):
            with pytest.raises(ValueError, match=f"of {network.num_blocks} blocks"):
                network.maps_after(images, wrong)
    assert Averaged(depth=1).pyramid_blocks == (1, 1, 1, 1)


def test_maps_come_in_the_order_in_which_they_are_asked_for(third):
    first, last, again = third.maps_after(torch.randn(1, 3, 16, 16), (1, 3, 1))
    assert torch.equal(first, again) and not torch.equal(first, last)


@pytest.mark.parametrize("changes", [{}, {"registers": 2}, {"mean_pooling": True}], ids=str)
@torch.no_grad()
def test_tokens_and_attention_of_a_vit_are_those_of_two_passes(changes):
    torch.manual_seed(0)
    network = build_backbone(replace(VIT, depth=2, **changes), (32, 32))
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)
    images = torch.randn(2, 3, 24, 40)
    maps = network.attention_maps(images)
    for norm in (True, False):
        tokens, attention = network.tokens_and_attention(images, norm)
        (want,) = network.last_layers(images, 1, norm)
        torch.testing.assert_close((tokens.cls, tokens.patches), (want.cls, want.patches))
        assert tokens.grid == want.grid == (3, 5)
        torch.testing.assert_close(attention, maps[:, :, 0, 1:16])
    assert attention.shape[1] == network.class_heads == 3
    assert class_attention(network, images).shape == (2, 3, 3, 5)


def test_networks_without_class_attention_say_so(third):
    images = torch.randn(1, 3, 32, 32)
    for network in (third, build_backbone(SWIN, (32, 32))):
        assert not network.class_heads and not network.has_class_token
        with pytest.raises(ValueError, match=f"a {network.family} has no class token"):
            network.tokens_and_attention(images)
    with pytest.raises(ValueError, match="a mean has no attention"):
        third.attention_maps(images)


def test_a_batch_holds_as_many_images_as_the_largest_stage_allows(third):
    vit, swin = build_backbone(VIT, (64, 64)), build_backbone(SWIN, (64, 64))
    assert third.tokens_per_image(64, 32) == vit.tokens_per_image(64, 32) == 32
    # 128 tokens of a quarter of the width in the first stage.
    assert swin.tokens_per_image(64, 32) == 32


@pytest.mark.parametrize("interp", ["published", "exact", "antialias"])
def test_a_table_is_resized_for_good_by_the_rule_of_the_network(interp):
    torch.manual_seed(0)
    network = build_backbone(replace(VIT, depth=1, pos_interp=interp), (32, 32)).eval()
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        want = network(images)
        network.resize_positions((40, 56))
        got = network(images)
    assert network.pos_embed.shape == (1, 36, 24) and network.pos_embed.requires_grad
    assert torch.equal(got.cls, want.cls) and torch.equal(got.patches, want.patches)


def test_without_a_table_or_a_mask_token_nothing_changes(third):
    for network in (third, build_backbone(SWIN, (64, 64))):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.resize_positions((32, 32))
        network.freeze_mask_token()
        after = network.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("config", [replace(VIT, depth=1), SWIN], ids=["vit", "swin"])
def test_only_the_mask_token_is_frozen(config):
    network = build_backbone(config, (64, 64), masked=True)
    network.freeze_mask_token()
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ["masked_embed"]


def test_what_lacks_a_part_of_the_contract_cannot_be_built():
    class Half(Averaged):
        last_layers = Backbone.last_layers

    with pytest.raises(TypeError, match="last_layers"):
        Half()
