"""Weights of other projects, written by those projects' own code, give the tokens that they give there."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from ibot.weights.read import load

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Weights of a size at which a mistake in any of them shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.normal_(mean=1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0, std=0.1)
    return network.double().eval()


def assert_same_tokens(path, images: torch.Tensor, cls: torch.Tensor, patches: torch.Tensor, **how):
    loaded = load(path, **how)
    assert not loaded.report.missing and not loaded.report.unused
    with torch.no_grad():
        out = loaded.backbone.double()(images)
    torch.testing.assert_close(out.cls, cls, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.patches, patches, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 0.5},
        {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.5},
        {"global_pool": "avg", "fc_norm": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_timm_vit(tmp_path, options):
    network = randomised(VisionTransformer(**VIT, **options))
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.forward_features(images)
    patches = tokens[:, network.num_prefix_tokens :]
    cls = network.forward_head(tokens, pre_logits=True)
    assert_same_tokens(tmp_path / "timm.safetensors", images, cls, patches)


@pytest.mark.parametrize(("size", "window"), [(224, 7), (224, 14)])  # sizes without padding: timm pads after the shift
@torch.no_grad()
def test_timm_swin(tmp_path, size, window):
    options = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "num_classes": 0}
    network = randomised(SwinTransformer(img_size=size, window_size=window, **options))
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    patches = network.forward_features(images).flatten(1, 2)
    assert_same_tokens(tmp_path / "timm.pth", images, patches.mean(1), patches)


@torch.no_grad()
def test_the_swin_authors_files_hold_masks_and_merge_at_the_end_of_a_stage(tmp_path):
    network = randomised(SwinTransformer(img_size=64, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4))
    state = {}
    for name, tensor in network.state_dict().items():
        state[name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")] = tensor
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    torch.save({"model": state}, tmp_path / "swin.pth")
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    patches = network.forward_features(images).flatten(1, 2)
    assert_same_tokens(tmp_path / "swin.pth", images, patches.mean(1), patches)


def huggingface_networks() -> dict:
    from transformers import Dinov2Config, Dinov2Model, SwinConfig, SwinModel, ViTConfig, ViTModel

    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    swin = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
    return {
        "vit": ViTModel(ViTConfig(**vit, intermediate_size=64), add_pooling_layer=False),
        "vit_with_pooler": ViTModel(ViTConfig(**vit, intermediate_size=64, layer_norm_eps=1e-3)),
        "dinov2": Dinov2Model(Dinov2Config(**vit)),
        "swin": SwinModel(SwinConfig(**swin), add_pooling_layer=False),
    }


@pytest.mark.parametrize("name", ["vit", "vit_with_pooler", "dinov2", "swin"])
@torch.no_grad()
def test_huggingface_folders(tmp_path, name):
    network = randomised(huggingface_networks()[name])
    network.save_pretrained(tmp_path)
    images = torch.randn(2, 3, network.config.image_size, network.config.image_size, dtype=torch.float64)
    tokens = network(images).last_hidden_state
    if name == "swin":
        assert_same_tokens(tmp_path, images, tokens.mean(1), tokens)
    else:
        assert_same_tokens(tmp_path, images, tokens[:, 0], tokens[:, 1:])


@torch.no_grad()
def test_mae_files_are_read_without_their_decoder(tmp_path):
    network = randomised(VisionTransformer(**VIT))
    state = dict(network.state_dict())
    state |= {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 64)}
    state |= {"decoder_pos_embed": torch.zeros(1, 17, 16)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "mae.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.forward_features(images)
    assert_same_tokens(tmp_path / "mae.pth", images, tokens[:, 0], tokens[:, 1:])


@torch.no_grad()
def test_dino_checkpoints_are_read_as_published_ones(tmp_path):
    network = randomised(VisionTransformer(**VIT))
    teacher = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"teacher": {**teacher, "head.mlp.0.weight": torch.zeros(2, 64)}, "epoch": 1}, tmp_path / "dino.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.forward_features(images)
    assert_same_tokens(tmp_path / "dino.pth", images, tokens[:, 0], tokens[:, 1:])


@torch.no_grad()
def test_chunked_blocks_of_dinov2(tmp_path):
    network = randomised(VisionTransformer(**VIT, init_values=0.5))
    state = {}
    for name, tensor in network.state_dict().items():
        state[name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1.")] = tensor
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "dinov2.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.forward_features(images)
    assert_same_tokens(tmp_path / "dinov2.pth", images, tokens[:, 0], tokens[:, 1:])


def test_a_gated_mlp_is_named_as_what_does_not_fit(tmp_path):
    from ibot.errors import WeightsError

    network = timm.create_model(
        "vit_giant_patch14_dinov2", img_size=28, embed_dim=64, depth=1, num_heads=1, mlp_ratio=2.0
    )
    save_file(network.state_dict(), tmp_path / "giant.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "giant.safetensors")
    assert "does not fit a ViT" in caught.value.what and "fc2.weight" in caught.value.why
