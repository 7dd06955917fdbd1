"""Weights of other projects, written by those projects' own code, give the tokens that they give
there.
"""

from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from ibot.cli.main import main
from ibot.errors import WeightsError
from ibot.weights.read import load

VIT = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 1,
    "num_classes": 0,
}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Weights of a size at which a mistake in any of them shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.normal_(
                mean=1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0,
                std=0.1,
            )
    return network.double().eval()


def assert_same_tokens(
    path, images: torch.Tensor, cls: torch.Tensor, patches: torch.Tensor, atol: float = 1e-9, **how
):
    loaded = load(path, **how)
    assert not loaded.report.missing and not loaded.report.unused
    with torch.no_grad():
        out = loaded.backbone.double()(images)
    torch.testing.assert_close(out.cls, cls, rtol=1e-9, atol=atol)
    torch.testing.assert_close(out.patches, patches, rtol=1e-9, atol=atol)


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


@pytest.mark.parametrize(
    ("size", "window"), [(224, 7), (224, 14)]
)  # sizes without padding: timm pads after the shift
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
    network = randomised(
        SwinTransformer(img_size=64, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4)
    )
    state = {}
    for name, tensor in network.state_dict().items():
        state[
            name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")
        ] = tensor
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    torch.save({"model": state}, tmp_path / "swin.pth")
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    patches = network.forward_features(images).flatten(1, 2)
    assert_same_tokens(tmp_path / "swin.pth", images, patches.mean(1), patches)


def huggingface_networks() -> dict:
    from transformers import Dinov2Config, Dinov2Model, SwinConfig, SwinModel, ViTConfig, ViTModel

    vit = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    swin = {
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [1, 2],
        "window_size": 4,
    }
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
    images = torch.randn(
        2, 3, network.config.image_size, network.config.image_size, dtype=torch.float64
    )
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
    torch.save(
        {"teacher": {**teacher, "head.mlp.0.weight": torch.zeros(2, 64)}, "epoch": 1},
        tmp_path / "dino.pth",
    )
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


def wrapped(names: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": tensor for name, tensor in names.items()}


def other_parts(prefix: str) -> dict:
    """What training frameworks keep beside a backbone."""
    return {f"{prefix}.0.weight": torch.zeros(2, 64), f"{prefix}.0.bias": torch.zeros(2)}


def in_frameworks(state: dict) -> dict:
    """The same network, `state`, as projects store it; what else is there has other values."""
    noise = {name: tensor + 1 for name, tensor in state.items()}
    chunks = {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): t
        for name, t in state.items()
    }
    return {
        "compiled": wrapped(state, "_orig_mod."),
        "blocks compiled": {
            name.replace("blocks.1.", "blocks.1._orig_mod."): t for name, t in state.items()
        },
        "data parallel": {"state_dict": wrapped(state, "module.")},
        "lightning": {
            "state_dict": wrapped(state, "model."),
            "epoch": 1,
            "hyper_parameters": {"lr": 0.1},
        },
        "timm's running mean": {"arch": "vit", "state_dict": noise, "state_dict_ema": state},
        "running mean of DeiT": {"model": noise, "model_ema": state},
        "running mean": {"ema": wrapped(state, "module."), "net": noise},
        "averaged model": {"n_averaged": torch.tensor(3), **wrapped(state, "module.")},
        "solo-learn": {
            "state_dict": {
                **wrapped(state, "backbone."),
                **wrapped(noise, "momentum_backbone."),
                **other_parts("projector"),
                **other_parts("classifier"),
            }
        },
        "lightly": {
            "state_dict": {
                **wrapped(state, "teacher_backbone.vit."),
                **wrapped(noise, "student_backbone.vit."),
                **other_parts("teacher_head"),
            }
        },
        "lightly, one network": {
            "state_dict": {**wrapped(state, "student_backbone."), **other_parts("student_head")}
        },
        "lightly-train": {
            "state_dict": wrapped(chunks, "teacher_embedding_model.wrapped_model._model.")
            | wrapped(noise, "student_embedding_model.wrapped_model._model.")
        },
        "DINOv2": {
            "teacher": {
                **wrapped(chunks, "backbone."),
                **other_parts("dino_head.mlp"),
                "backbone.mask_token": torch.zeros(1, 64),
                **other_parts("ibot_head.mlp"),
            }
        },
        "MoCo v3": {
            "arch": "vit_base",
            "state_dict": wrapped(state, "module.base_encoder.")
            | wrapped(noise, "module.momentum_encoder.")
            | other_parts("module.predictor"),
        },
    }


@pytest.mark.parametrize("name", in_frameworks({}))
@torch.no_grad()
def test_what_frameworks_wrap_around_a_network_is_peeled_off(tmp_path, name):
    network = randomised(
        VisionTransformer(**VIT, init_values=0.5 if name in ("DINOv2", "lightly-train") else None)
    )
    torch.save(in_frameworks(network.state_dict())[name], tmp_path / "weights.ckpt")
    key = "student" if name == "lightly, one network" else "teacher"
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.forward_features(images)
    assert_same_tokens(tmp_path / "weights.ckpt", images, tokens[:, 0], tokens[:, 1:], key=key)


@torch.no_grad()
def test_torchvision_vit(tmp_path, caplog):
    from torchvision.models.vision_transformer import VisionTransformer as Torchvision

    network = randomised(Torchvision(32, 8, num_layers=2, num_heads=1, hidden_dim=64, mlp_dim=128))
    network.heads = torch.nn.Identity()
    torch.save({**network.state_dict(), **other_parts("heads")}, tmp_path / "vit.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.encoder(
        torch.cat([network.class_token.expand(2, -1, -1), network._process_input(images)], 1)
    )
    assert_same_tokens(tmp_path / "vit.pth", images, tokens[:, 0], tokens[:, 1:])
    assert "positions are resampled as in MAE" in caplog.text


@pytest.mark.parametrize(
    "options", [{"no_embed_class": True}, {"reg_tokens": 3}, {"qkv_bias": False}], ids=str
)
@torch.no_grad()
def test_tables_without_a_class_row_or_with_rows_of_registers_and_missing_biases(tmp_path, options):
    network = randomised(VisionTransformer(**VIT, **options))
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = network.forward_features(images)
    patches = tokens[:, network.num_prefix_tokens :]
    atol = (
        1e-6 if "reg_tokens" in options else 1e-9
    )  # their positions are added to them, in float32
    assert_same_tokens(tmp_path / "timm.pth", images, tokens[:, 0], patches, atol=atol)


@pytest.mark.parametrize(("size", "window"), [(384, 12), (192, 6), (256, 8)])
@torch.no_grad()
def test_swins_of_other_windows_tell_their_size(tmp_path, size, window):
    options = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "num_classes": 0}
    network = randomised(SwinTransformer(img_size=size, window_size=window, **options))
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 1, 8)}
    torch.save(
        {"model": wrapped(state, "encoder.") | other_parts("decoder")}, tmp_path / "simmim.pth"
    )
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    patches = network.forward_features(images).flatten(1, 2)
    assert_same_tokens(tmp_path / "simmim.pth", images, patches.mean(1), patches)


@torch.no_grad()
def test_masks_of_a_swin_tell_a_size_that_its_windows_do_not(tmp_path):
    options = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 0}
    network = randomised(SwinTransformer(img_size=112, window_size=7, **options))
    state = {**network.state_dict(), "layers.0.blocks.1.attn_mask": torch.zeros(16, 49, 49)}
    torch.save(state, tmp_path / "swin.pth")
    assert load(tmp_path / "swin.pth").size == (112, 112)


@torch.no_grad()
def test_timm_folders_say_mean_activation_size_and_rule(tmp_path, caplog):
    from timm.models import save_for_hf

    arguments = {"img_size": [32, 64], "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
    arguments |= {"act_layer": "gelu_tanh", "dynamic_img_size": True}
    network = randomised(
        timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0, **arguments)
    ).float()
    save_for_hf(network, tmp_path, model_args=arguments, safe_serialization=True)
    loaded = load(tmp_path)
    assert loaded.config.statistics == ((0.5,) * 3, (0.5,) * 3) and loaded.size == (32, 64)
    assert loaded.config.heads == 4 and loaded.config.act == "gelu_tanh" and not caplog.records
    for size in ((32, 64), (48, 40)):
        images = torch.randn(2, 3, *size)
        tokens, ours = network.forward_features(images), loaded.backbone(images)
        torch.testing.assert_close(ours.cls, tokens[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.patches, tokens[:, 1:], rtol=1e-4, atol=1e-4)


def test_heads_of_known_networks(tmp_path, caplog):
    base = VisionTransformer(**{**VIT, "embed_dim": 384, "depth": 1, "num_heads": 12}).state_dict()
    names = {f"module.base_encoder.{name}": tensor for name, tensor in base.items()}
    torch.save({"arch": "vit_small", "state_dict": names}, tmp_path / "moco.pth")
    assert load(tmp_path / "moco.pth").config.heads == 12 and "heads:" not in caplog.text
    linear = {f"module.{name}": tensor for name, tensor in base.items()} | other_parts(
        "module.head"
    )
    torch.save(
        {"epoch": 90, "arch": "vit_small", "state_dict": linear}, tmp_path / "linear.pth.tar"
    )
    assert load(tmp_path / "linear.pth.tar").config.heads == 12
    torch.save(
        {"teacher": linear, "args": Namespace(arch="vit_small", teacher_temp=0.04)},
        tmp_path / "dino.pth",
    )
    assert load(tmp_path / "dino.pth").config.heads == 6
    for width, heads in (
        (192, 3),
        (384, 6),
        (768, 12),
        (1024, 16),
        (1280, 16),
        (1536, 24),
        (80, 1),
    ):
        network = VisionTransformer(
            **{**VIT, "embed_dim": width, "depth": 1, "num_heads": 1, "mlp_ratio": 0.5}
        )
        caplog.clear()
        torch.save(network.state_dict(), tmp_path / "bare.pth")
        assert load(tmp_path / "bare.pth").config.heads == heads
        assert f"heads: {heads} are assumed" in caplog.text and "--heads N" in caplog.text


@pytest.mark.parametrize(
    ("options", "place", "rule"),
    [
        ({}, ("model", ""), "exact"),
        ({"init_values": 0.5}, ("model", ""), "antialias"),
        ({"init_values": 0.5, "mask": True}, ("model", ""), "published"),
        ({"reg_tokens": 2, "mask": True}, ("model", ""), "antialias"),
        ({}, ("model", "teacher.backbone."), "published"),
        ({}, ("model_ema", ""), "published"),
    ],
    ids=str,
)
def test_what_keeps_its_network_as_model_has_the_rule_of_its_names(
    tmp_path, options, place, rule, caplog
):
    mask = {"mask_token": torch.zeros(1, 64)} if options.get("mask") else {}
    network = VisionTransformer(
        **VIT, **{name: value for name, value in options.items() if name != "mask"}
    )
    torch.save({place[0]: wrapped({**network.state_dict(), **mask}, place[1])}, tmp_path / "w.pth")
    assert load(tmp_path / "w.pth").config.pos_interp == rule
    assert ("positions are resampled as in iBOT" in caplog.text) == (
        rule == "published" and not mask
    )


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    torch.save(VisionTransformer(**VIT).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="cannot have 5 heads"):
        load(tmp_path / "vit.pth", heads=5)


FOREIGN = {
    "beit_base_patch16_224": "BEiT",
    "eva02_tiny_patch14_224": "EVA",
    "vit_base_patch16_clip_224": "a norm before its blocks",
    "vit_base_patch16_siglip_224": "pooling by attention",
    "deit_tiny_distilled_patch16_224": "a distillation token",
    "convnext_atto": "ConvNeXt",
    "resnet18": "ResNet",
    "swinv2_tiny_window8_256": "Swin v2",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_networks_end_in_one_refusal_that_names_what_is_foreign(tmp_path, name, capsys):
    small = (
        {}
        if name == "resnet18"
        else {"depths": (1, 1, 1, 1)}
        if name[:4] in ("conv", "swin")
        else {"depth": 1}
    )
    with torch.device("meta"):
        state = timm.create_model(name, **small).state_dict()
    torch.save(
        {n: torch.zeros_like(t, device="cpu") for n, t in state.items()}, tmp_path / "other.pth"
    )
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "other.pth")
    assert FOREIGN[name] in caught.value.why and len(str(caught.value)) < 600
    assert main(["weights", "inspect", str(tmp_path / "other.pth")]) == 2
    listed = capsys.readouterr()
    assert next(iter(state)) in listed.out.replace("*", "0") and FOREIGN[name] in listed.err


def test_rotary_positions_that_only_the_name_tells_are_refused(tmp_path):
    from timm.models import save_for_hf

    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 1}
    network = timm.create_model("vit_small_patch16_rope_ape_224", num_classes=0, **arguments)
    save_for_hf(network, tmp_path / "folder", model_args=arguments, safe_serialization=True)
    torch.save(
        {"arch": "vit_small_patch16_rope_ape_224", "state_dict": network.state_dict()},
        tmp_path / "w.pth",
    )
    for path in (tmp_path / "folder", tmp_path / "w.pth"):
        with pytest.raises(WeightsError, match="no network that ibot knows") as caught:
            load(path)
        assert "rotary positions" in caught.value.why and "rope_ape" in caught.value.why


def test_a_gated_mlp_is_named_as_what_does_not_fit(tmp_path):
    network = timm.create_model(
        "vit_giant_patch14_dinov2", img_size=28, embed_dim=64, depth=1, num_heads=1, mlp_ratio=2.0
    )
    save_file(network.state_dict(), tmp_path / "giant.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "giant.safetensors")
    assert "does not fit a ViT" in caught.value.what and "fc2.weight" in caught.value.why
