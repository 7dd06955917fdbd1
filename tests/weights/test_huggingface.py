"""Folders as the transformers library saves them give the tokens that its networks give: every
layout of a ViT or Swin, and what its configurations say. Kept in one module: the library is slow to
import.
"""

import json

import pytest
import torch

from ibot.errors import WeightsError
from ibot.weights.read import load

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MLP = {"intermediate_size": 64}
DECODER = {
    f"decoder_{name}": value for name, value in (("hidden_size", 16), ("intermediate_size", 16))
}
DECODER |= {"decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}


@pytest.fixture(scope="session")
def transformers():
    """Not at the top: the import takes seconds, and every selection of tests collects this
    module.
    """
    return pytest.importorskip("transformers")


LAYOUTS = [
    *("MAE, for pre-training", "classification", "masked modelling", "without biases", "MSN"),
    *("DINOv2, classification", "DINOv2 with registers", "DINOv2 with registers, classification"),
    *("Swin, classification", "Swin, masked modelling", "tanh", "quick", "relu", "silu"),
]


def networks(t) -> dict:
    """Class and configuration of each of `LAYOUTS`. t: the library."""
    vit, dinov2 = t.ViTConfig(**VIT, **MLP), t.Dinov2Config(**VIT)
    registers = t.Dinov2WithRegistersConfig(**VIT, num_register_tokens=3)
    return {
        "MAE, for pre-training": (
            t.ViTMAEForPreTraining,
            t.ViTMAEConfig(**VIT, **MLP, **DECODER, mask_ratio=0.0),
        ),
        "classification": (t.ViTForImageClassification, vit),
        "masked modelling": (
            t.ViTForMaskedImageModeling,
            t.ViTConfig(**VIT, **MLP, encoder_stride=8),
        ),
        "without biases": (t.ViTModel, t.ViTConfig(**VIT, **MLP, qkv_bias=False)),
        "MSN": (t.ViTMSNModel, t.ViTMSNConfig(**VIT, **MLP)),
        "DINOv2, classification": (t.Dinov2ForImageClassification, dinov2),
        "DINOv2 with registers": (t.Dinov2WithRegistersModel, registers),
        "DINOv2 with registers, classification": (
            t.Dinov2WithRegistersForImageClassification,
            registers,
        ),
        "Swin, classification": (t.SwinForImageClassification, t.SwinConfig(**SWIN)),
        "Swin, masked modelling": (
            t.SwinForMaskedImageModeling,
            t.SwinConfig(**SWIN, encoder_stride=8),
        ),
        "tanh": (t.ViTModel, t.ViTConfig(**VIT, **MLP, hidden_act="gelu_new")),
        "quick": (
            t.ViTModel,
            t.ViTConfig(**VIT, **MLP, hidden_act="quick_gelu", layer_norm_eps=1e-3),
        ),
        "relu": (t.Dinov2Model, t.Dinov2Config(**VIT, hidden_act="relu")),
        "silu": (t.SwinModel, t.SwinConfig(**SWIN, hidden_act="silu")),
    }


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1)
    return network.double().eval()


def assert_same(loaded, images: torch.Tensor, tokens: torch.Tensor):
    """tokens: last hidden state of a ViT, class token first, registers behind it, or of a Swin."""
    with torch.no_grad():
        out = loaded.backbone.double()(images)
    if loaded.config.kind == "swin":
        cls, patches = tokens.mean(dim=1), tokens
    else:
        cls, patches = tokens[:, 0], tokens[:, 1 + loaded.config.registers :]
    torch.testing.assert_close(out.cls, cls, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.patches, patches, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_every_layout_of_a_network_is_read(transformers, tmp_path, name, caplog):
    kind, config = networks(transformers)[name]
    network = randomised(kind(config))
    network.save_pretrained(tmp_path)
    inner = getattr(network, network.base_model_prefix, network)
    images = torch.randn(2, 3, config.image_size, config.image_size, dtype=torch.float64)
    order = (
        {"noise": torch.arange(16.0)[None].repeat(2, 1)} if "MAE" in name else {}
    )  # keeps the patches in place
    loaded = load(tmp_path)
    assert not loaded.report.missing and not loaded.report.unused
    assert_same(loaded, images, inner(images, **order).last_hidden_state)
    assert "mean and deviation" in caplog.text and "heads:" not in caplog.text


@pytest.mark.parametrize("registers", [0, 3])
@torch.no_grad()
def test_other_sizes_follow_the_rule_of_the_library(transformers, tmp_path, registers):
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=registers)
        network, how = randomised(transformers.Dinov2WithRegistersModel(config)), {}
    else:
        network = randomised(
            transformers.ViTModel(transformers.ViTConfig(**VIT, **MLP), add_pooling_layer=False)
        )
        how = {"interpolate_pos_encoding": True}
    network.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    for size in ((48, 48), (24, 56), (32, 32)):
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        tokens = network.float()(images.float(), **how).last_hidden_state.double()
        with torch.no_grad():
            out = loaded.backbone.float()(images.float())
        torch.testing.assert_close(out.cls.double(), tokens[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            out.patches.double(), tokens[:, 1 + registers :], rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_grids_that_are_not_square_and_shards_are_read(transformers, tmp_path, caplog):
    network = randomised(
        transformers.ViTModel(transformers.ViTConfig(**{**VIT, **MLP, "image_size": [16, 64]}))
    )
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    processor = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.25, 0.125],
        "rescale_factor": 1 / 127.5,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = load(tmp_path)
    images = torch.randn(2, 3, 16, 64, dtype=torch.float64)
    assert_same(loaded, images, network(images).last_hidden_state)
    assert loaded.size == (16, 64) and not caplog.records
    # Levels of 0..255 over 127.5, as that processor has them, are twice ours.
    assert loaded.config.mean == pytest.approx((0.25, 0.2, 0.15))
    assert loaded.config.std == pytest.approx((0.25, 0.125, 0.0625))


@pytest.mark.parametrize("name", ["Beit", "Data2VecVision", "CLIPVision", "SiglipVision"])
def test_networks_that_are_neither_end_in_a_refusal(transformers, tmp_path, name):
    config = getattr(transformers, f"{name}Config")(**VIT, **MLP)
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError) as caught:
        load(tmp_path)
    assert "neither" in caught.value.what and len(str(caught.value)) < 600


def test_an_unknown_activation_is_refused_by_name(transformers, tmp_path):
    network = transformers.ViTModel(transformers.ViTConfig(**VIT, **MLP, hidden_act="mish"))
    network.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="activation 'mish'"):
        load(tmp_path)


def test_a_vit_of_the_hub_is_read_by_its_name(transformers, tmp_path, monkeypatch):
    """As the library keeps it: what `hf:owkin/phikon` finds after `hf download owkin/phikon`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--owkin--phikon"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    torch.manual_seed(0)
    theirs = transformers.ViTModel(transformers.ViTConfig(**VIT, **MLP)).eval()
    theirs.save_pretrained(folder / "snapshots" / "0123")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = theirs(images).last_hidden_state
        got = load("hf:owkin/phikon").backbone(images)
    assert (torch.cat([got.cls[:, None], got.patches], 1) - wanted).abs().max() < 1e-5
