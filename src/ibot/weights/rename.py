"""Tables of names: what other projects call the tensors of a ViT or Swin.

Ours are the published code's names, which DINO, MAE and most of timm share. `to_ours` recognises a
layout by its names and renames; `from_ours` goes back for an export.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rules = Sequence[tuple[str, str]]

# Each rule is a regular expression and its replacement; all are applied in order to every name.
HUGGINGFACE: Rules = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.mask_token$", "masked_embed"),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention|self)\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
TIMM: Rules = (
    (r"^blocks\.\d+\.(?=\d+\.)", "blocks."),  # DINOv2 keeps blocks in chunks
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"^reg_token$", "register_tokens"),
)
TORCHVISION: Rules = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_", "blocks."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)
NOT_BACKBONE = (
    *("head.", "heads.", "linear.", "fc.", "classifier."),
    *("pooler.", "decoder.", "decoder_", "predictor."),
    *("projector.", "prototypes.", "dino_head.", "ibot_head."),
)
"""Beginnings of names of projection heads, classifiers and decoders."""
COMPUTED = ("attn_mask", "relative_position_index", "num_batches_tracked")
"""Ends of names of buffers that follow from the settings."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """Tensors of a file in our names."""

    layout: str
    """published (also DINO, MAE, MoCo v3), timm (also DINOv2), huggingface, torchvision."""
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    """What begins with one of `NOT_BACKBONE` or ends with one of `COMPUTED`, under its own name."""


def to_ours(tensors: Mapping[str, Tensor]) -> Renamed:
    """Rename the tensors of any known layout; unknown names stay as they are."""
    layout = recognise(tensors)
    head = {
        name: t
        for name, t in tensors.items()
        if name.startswith(NOT_BACKBONE) or name.endswith(COMPUTED)
    }
    rest = {name: tensor for name, tensor in tensors.items() if name not in head}
    rules = {"huggingface": HUGGINGFACE, "timm": TIMM, "torchvision": TORCHVISION}.get(layout, ())
    named = {_renamed(name, rules): tensor for name, tensor in rest.items()}
    if layout == "huggingface":
        named = _fuse_qkv(named)
    if layout == "timm":
        named = _timm_to_ours(named)
    return Renamed(
        layout,
        _with_mask_token(named, decoder=any(name.startswith("decoder_") for name in head)),
        head,
    )


def _with_mask_token(tensors: dict[str, Tensor], decoder: bool) -> dict[str, Tensor]:
    """The mask token [1, D] under our name, or that of MAE's decoder, which fills it in."""
    named = {name: t for name, t in tensors.items() if name not in ("mask_token", "masked_embed")}
    token = tensors.get("masked_embed", None if decoder else tensors.get("mask_token"))
    return named if token is None else {**named, "masked_embed": token.reshape(1, -1)}


def recognise(names: Mapping[str, Tensor]) -> str:
    """The layout of a set of names."""
    if any(re.match(r"(?:\w+\.)?embeddings\.patch_embeddings", name) for name in names):
        return "huggingface"
    if "conv_proj.weight" in names:
        return "torchvision"
    later = any(name.startswith("layers.1.downsample") for name in names)
    moved = later and not any(name.startswith("layers.0.downsample") for name in names)
    chunks = any(
        re.match(r"blocks\.\d+\.\d+\.|blocks\.\d+\.ls1\.gamma$|reg_token$", name) for name in names
    )
    stored_masks = any(name.endswith("attn_mask") for name in names)
    return "timm" if moved or chunks or stored_masks else "published"


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm's VisionTransformer or SwinTransformer."""
    rules = ((r"\.gamma_([12])$", r".ls\1.gamma"), (r"^register_tokens$", "reg_token"))
    named = {
        _renamed(name, rules): tensor
        for name, tensor in tensors.items()
        if not name.endswith(COMPUTED)
    }
    return {
        re.sub(r"^layers\.(\d+)\.downsample", _stage_later, name): t for name, t in named.items()
    }


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in the files of Hugging Face's ViTModel or SwinModel."""
    swin = any(name.startswith("layers.") for name in tensors)
    inner = "attention.self" if swin else "attention.attention"
    rules = (
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "embeddings.norm."),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"^layers\.", "encoder.layers."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.", f".{inner}."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    )
    result = {}
    for name, tensor in tensors.items():
        if name.endswith(COMPUTED):
            continue
        named = _renamed(name, rules)
        if ".qkv." in named:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[named.replace("qkv", part)] = piece.contiguous()
        else:
            result[named] = tensor
    return result


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _fuse_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of Hugging Face, three tensors there, are one here."""
    result = {
        name: t
        for name, t in tensors.items()
        if not re.search(r"\.attn\.(query|key|value)\.", name)
    }
    for name in tensors:
        if ".attn.query." in name:
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            if all(part in tensors for part in parts):
                result[name.replace("query", "qkv")] = torch.cat([tensors[part] for part in parts])
    return result


def _timm_to_ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Timm merges patches at the start of the next stage."""
    moved = any(name.startswith("layers.") for name in tensors) and not any(
        name.startswith("layers.0.downsample") for name in tensors
    )
    if moved:
        tensors = {
            re.sub(r"^layers\.(\d+)\.downsample", _stage_before, name): t
            for name, t in tensors.items()
        }
    return tensors


def _stage_later(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _stage_before(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) - 1}.downsample"
