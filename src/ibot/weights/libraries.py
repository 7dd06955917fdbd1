"""Our backbones as networks of timm and of Hugging Face: how they are written and opened there."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.config.reading import RGB
from ibot.config.schema import ModelConfig
from ibot.data.pixels import shorter_side
from ibot.errors import MissingExtra, WeightsError
from ibot.models.swin import WindowBlock
from ibot.weights.read import Loaded
from ibot.weights.rename import to_huggingface, to_timm
from ibot.weights.said import told_channels
from ibot.weights.write import save_tensors

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [B, C, H, W] -> class tokens [B, D] and patch tokens [B, N, D], computed by the target."""
Prepare = Callable[[NDArray[np.uint8]], Tensor]
"""A picture uint8 [H, W, 3] of any size -> the network's input [3, h, w], by the target's own
rules."""


TIMM_EPS = {"vit": 1e-6, "swin": 1e-5}
TIMM_CLASSIFIER = {"vit": "head", "swin": "head.fc"}
HUGGINGFACE_SWIN_EPS = 1e-5
"""Of the norms that its configuration does not reach."""
HUGGINGFACE_ACT = {"gelu_tanh": "gelu_pytorch_tanh"}
"""Activations that have another name there."""
BICUBIC = int(Image.Resampling.BICUBIC)


def backbone_tensors(loaded: Loaded) -> dict[str, Tensor]:
    """Tensors of the backbone; the mask token serves training only."""
    state = loaded.backbone.state_dict()
    return {
        name: tensor.detach().float().contiguous()
        for name, tensor in state.items()
        if name != "masked_embed"
    }


def with_epsilon(state: dict[str, Tensor], own: float, wanted: float) -> dict[str, Tensor]:
    """The same function for layer norms of another epsilon.

    x / sqrt(var(x) + own) = s x / sqrt(var(s x) + s^2 own), so the residual stream is scaled by s =
    sqrt(wanted / own): everything that is written to it, and the input of the norm behind the patch
    embedding.
    """
    if own == wanted:
        return state
    scale = (wanted / own) ** 0.5
    parts = r"patch_embed\.(proj|norm)|attn\.proj|mlp\.fc2|reduction"
    written = rf"(^|\.)(pos_embed|cls_token|register_tokens|({parts})\.\w+)$"
    return {
        name: tensor * scale if re.search(written, name) else tensor
        for name, tensor in state.items()
    }


def with_folded_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function without layer scale: it becomes part of the layer before it."""
    layers = {"gamma_1": "attn.proj", "gamma_2": "mlp.fc2"}
    folded = {
        name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in layers
    }
    for name, gamma in state.items():
        block, _, last = name.rpartition(".")
        if last in layers:
            weight, bias = (f"{block}.{layers[last]}.{kind}" for kind in ("weight", "bias"))
            folded[weight], folded[bias] = state[weight] * gamma[:, None], state[bias] * gamma
    return folded


def write_timm(loaded: Loaded, out: Path) -> None:
    """Write a folder that `timm.create_model("local-dir:...")` takes."""
    library("timm")
    config = loaded.config
    arguments: dict[str, Any] = {
        "embed_dim": config.width,
        "num_classes": 0,
        "mlp_ratio": config.mlp_ratio,
        "patch_size": config.patch,
    }
    if len(config.channels) != len(RGB):
        arguments["in_chans"] = len(config.channels)
    if config.kind == "vit":
        architecture = "vit_small_patch16_224"
        arguments |= {
            "img_size": list(loaded.size),
            "depth": config.depth,
            "num_heads": config.heads,
            "reg_tokens": config.registers,
            "act_layer": config.act,
        }
        arguments |= {"init_values": 1.0} if config.layer_scale else {}
        arguments["global_pool"] = "avg" if config.mean_pooling else "token"
        arguments |= {"fc_norm": True} if config.mean_pooling else {}
    else:
        if config.act != "gelu":
            raise _cannot("timm's", f"model.act={config.act} in a Swin")
        architecture = "swin_tiny_patch4_window7_224"
        arguments |= {
            "img_size": list(loaded.built_for),
            "depths": list(config.depths),
            "num_heads": list(config.stage_heads),
            "window_size": config.window,
            "strict_img_size": False,
        }
    out.mkdir()
    state = with_epsilon(backbone_tensors(loaded), config.norm_eps, TIMM_EPS[config.kind])
    if config.registers:  # there they stand before the patches and have positions
        cls, patches = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        state["pos_embed"] = torch.cat(
            [cls, torch.zeros_like(state["register_tokens"]), patches], dim=1
        )
    save_tensors(to_timm(state), out / "model.safetensors", {"format": "pt"})
    pretrained = {
        "input_size": [len(config.channels), *loaded.size],
        "mean": config.mean,
        "std": config.std,
        "interpolation": "bicubic",
        "crop_pct": crop_share(loaded.size),
        "crop_mode": "center",
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": TIMM_CLASSIFIER[config.kind],
    }
    settings = {
        "architecture": architecture,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
        "num_classes": 0,
        **told_channels(config, loaded.reading),
    }
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def crop_share(size: tuple[int, int]) -> float:
    """The crop over what the shorter side was resized to; timm divides by it and rounds down."""
    share = max(size) / shorter_side(size)
    while math.floor(max(size) / share) < shorter_side(size):
        share = math.nextafter(share, 0)
    return share


def open_timm(path: Path, loaded: Loaded) -> Forward:
    """The network that timm makes of a folder."""
    network = library("timm").create_model(f"local-dir:{path.resolve()}", pretrained=True).eval()
    vit = hasattr(network, "num_prefix_tokens")

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = network.forward_features(images)
        patches = tokens[:, network.num_prefix_tokens :] if vit else tokens.flatten(1, 2)
        return network.forward_head(tokens, pre_logits=True), patches

    return forward


def prepare_timm(path: Path, loaded: Loaded) -> Prepare | None:
    """Timm's preprocessing by a folder; none for oblong images, which it resizes otherwise, and for
    other images than colour pictures.
    """
    if loaded.size[0] != loaded.size[1] or told_channels(loaded.config, loaded.reading):
        return None  # resized by another rule there: until it covers the crop
    data = library("timm").data
    network = library("timm").create_model(f"local-dir:{path.resolve()}")
    transform = data.create_transform(**data.resolve_model_data_config(network))
    return lambda picture: transform(Image.fromarray(picture))


def write_huggingface(loaded: Loaded, out: Path) -> None:
    """Write a folder that `from_pretrained` takes, or raise WeightsError."""
    transformers = library("transformers")
    config = loaded.config
    for name in ("mean_pooling", "registers"):
        if getattr(config, name):
            raise _cannot("Hugging Face's", f"model.{name}")
    sides = {part.side for part in loaded.backbone.modules() if isinstance(part, WindowBlock)}
    if len(sides) > 1:
        raise _cannot(
            "Hugging Face's", f"windows of several sizes, {', '.join(map(str, sorted(sides)))}"
        )
    act = HUGGINGFACE_ACT.get(config.act, config.act)
    named = {"num_channels": len(config.channels), **told_channels(config, loaded.reading)}
    if config.kind == "vit":
        settings = transformers.ViTConfig(
            **named,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=int(config.width * config.mlp_ratio),
            layer_norm_eps=config.norm_eps,
            image_size=list(loaded.size),
            patch_size=config.patch,
            hidden_act=act,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    else:
        settings = transformers.SwinConfig(
            **named,
            image_size=loaded.size[0],
            patch_size=config.patch,
            embed_dim=config.width,
            depths=list(config.depths),
            num_heads=list(config.stage_heads),
            window_size=config.window,
            mlp_ratio=config.mlp_ratio,
            hidden_act=act,
            layer_norm_eps=HUGGINGFACE_SWIN_EPS,
            drop_path_rate=0.0,
        )
    settings.architectures = ["ViTModel" if config.kind == "vit" else "SwinModel"]
    out.mkdir()
    settings.save_pretrained(out)
    state = with_folded_scale(
        with_epsilon(backbone_tensors(loaded), config.norm_eps, settings.layer_norm_eps)
    )
    save_tensors(to_huggingface(state), out / "model.safetensors", {"format": "pt"})
    prepared = processor(config, loaded.size)
    if told_channels(config, loaded.reading):
        # Levels are not divided. No processor there opens such images, but all read the statistics.
        prepared |= {"do_convert_rgb": False, "do_rescale": False}
    (out / "preprocessor_config.json").write_text(json.dumps(prepared, indent=2) + "\n")


def processor(config: ModelConfig, size: tuple[int, int]) -> dict[str, Any]:
    """Settings of the processor that resizes and crops as evaluations here do.

    ViT's own squashes every picture to a square.
    """
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": shorter_side(size)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size[0], "width": size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config.mean,
        "image_std": config.std,
    }


def open_huggingface(path: Path, loaded: Loaded) -> Forward:
    """The network that `from_pretrained` makes of a folder."""
    transformers = library("transformers")
    vit = loaded.config.kind == "vit"
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        kind = transformers.ViTModel if vit else transformers.SwinModel
        network, report = kind.from_pretrained(
            path, add_pooling_layer=False, output_loading_info=True, local_files_only=True
        )
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
    if any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise WeightsError("Hugging Face does not take every tensor", why=str(report))
    network.eval()

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = network(pixel_values=images).last_hidden_state
        return (tokens[:, 0], tokens[:, 1:]) if vit else (tokens.mean(dim=1), tokens)

    return forward


def prepare_huggingface(path: Path, loaded: Loaded) -> Prepare | None:
    """The image processor of a folder; none for other images than colour pictures."""
    if told_channels(loaded.config, loaded.reading):
        return None
    own = library("transformers").AutoImageProcessor.from_pretrained(path, local_files_only=True)
    return lambda picture: own(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]


def _cannot(network: str, what: str) -> WeightsError:
    return WeightsError(
        f"{network} network cannot hold this backbone",
        why=f"it has no {what}",
        fix="export to onnx",
    )


def library(name: str) -> ModuleType:
    """An optional package. Raises MissingExtra."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(name, "export") from None
