"""Tables of names: how other projects call the tensors of a ViT or Swin, and what they are called here.

Ours are the published code's names, which DINO, MAE and most of timm share. `to_ours` recognises a layout by its names
and renames; `from_ours` goes back for an export.
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
    (r"^(vit|swin|dinov2|model)\.(?=embeddings|encoder|layernorm)", ""),
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
    (r"^mask_token$", "masked_embed"),
)
NOT_BACKBONE = ("head.", "linear.", "fc.", "pooler.", "classifier.", "decoder_", "predictor.")
"""Beginnings of names of projection heads, classifiers and decoders."""
COMPUTED = ("attn_mask", "relative_position_index", "num_batches_tracked")
"""Ends of names of buffers that follow from the settings."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """Tensors of a file in our names."""

    layout: str
    """published (also DINO, MAE), timm (also DINOv2), huggingface."""
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    """Everything that begins with one of `NOT_BACKBONE`, under its own name."""


def to_ours(tensors: Mapping[str, Tensor]) -> Renamed:
    """Rename the tensors of any known layout; unknown names stay as they are."""
    layout = recognise(tensors)
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(NOT_BACKBONE)}
    rest = {name: t for name, t in tensors.items() if name not in head and not name.endswith(COMPUTED)}
    if any(name.startswith("decoder_") for name in head):
        rest.pop("mask_token", None)  # MAE's decoder fills in what its encoder never saw
    rules = {"huggingface": HUGGINGFACE, "timm": TIMM}.get(layout, ())
    named = {_renamed(name, rules): tensor for name, tensor in rest.items()}
    if layout == "huggingface":
        named = _fuse_qkv(named)
    if layout == "timm":
        named = _timm_to_ours(named)
    if named.get("masked_embed") is not None:
        named["masked_embed"] = named["masked_embed"].reshape(1, -1)
    return Renamed(layout, named, head)


def recognise(names: Mapping[str, Tensor]) -> str:
    """The layout of a set of names."""
    if any(re.match(r"(?:\w+\.)?embeddings\.patch_embeddings", name) for name in names):
        return "huggingface"
    later = any(name.startswith("layers.1.downsample") for name in names)
    moved = later and not any(name.startswith("layers.0.downsample") for name in names)
    chunks = any(re.match(r"blocks\.\d+\.\d+\.|blocks\.\d+\.ls1\.gamma$|reg_token$", name) for name in names)
    stored_masks = any(name.endswith("attn_mask") for name in names)
    return "timm" if moved or chunks or stored_masks else "published"


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm's VisionTransformer or SwinTransformer."""
    rules = ((r"\.gamma_([12])$", r".ls\1.gamma"), (r"^register_tokens$", "reg_token"))
    named = {_renamed(name, rules): tensor for name, tensor in tensors.items() if not name.endswith(COMPUTED)}
    return {re.sub(r"^layers\.(\d+)\.downsample", _stage_later, name): t for name, t in named.items()}


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in the files of Hugging Face's ViTModel or SwinModel."""
    inner = "attention.self" if any(name.startswith("layers.") for name in tensors) else "attention.attention"
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
    result = {name: t for name, t in tensors.items() if not re.search(r"\.attn\.(query|key|value)\.", name)}
    for name in tensors:
        if ".attn.query." in name:
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            if all(part in tensors for part in parts):
                result[name.replace("query", "qkv")] = torch.cat([tensors[part] for part in parts])
    return result


def _timm_to_ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Timm merges patches at the start of the next stage, and gives the class token of some ViTs no position."""
    moved = any(name.startswith("layers.") for name in tensors) and not any(
        name.startswith("layers.0.downsample") for name in tensors
    )
    if moved:
        tensors = {re.sub(r"^layers\.(\d+)\.downsample", _stage_before, name): t for name, t in tensors.items()}
    positions, cls = tensors.get("pos_embed"), tensors.get("cls_token")
    if positions is not None and cls is not None and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        tensors["pos_embed"] = torch.cat([torch.zeros_like(cls), positions], dim=1)
    return tensors


def _stage_later(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _stage_before(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) - 1}.downsample"
