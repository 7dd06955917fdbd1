"""Which network a set of tensors is: by what its file says, else by the shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ibot.config.override import from_plain
from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD, PICTURES, RGB, Channels
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.weights.files import is_configuration
from ibot.weights.said import Said

HEAD_WIDTH = 64
"""Width of an attention head in nearly every published ViT."""
KNOWN_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 4096: 32}
"""Heads of the published widths whose heads are wider: So400m, ViT-H, ViT-g, ViT-G, 7B."""
PUBLISHED_SIZE = 224
EPS = {"timm swin": 1e-5, "huggingface vit": 1e-12, "huggingface swin": 1e-5}
"""Layer-norm epsilon of projects that do not use 1e-6, where no configuration says."""
FOREIGN = {
    r"blocks\.\d+\.attn\.relative_position_bias_table"
    r"|\.rel_pos_bias\.|\.relative_position_bias\.": "relative positions in its blocks, as BEiT "
    "and data2vec",
    r"vision_model\.|visual\.|^text_model\.": "a tower for images and text, as CLIP and SigLIP",
    r"norm_pre\.|^pre_?layernorm": "a norm before its blocks, as CLIP",
    r"attn_pool|probe$": "pooling by attention, as SigLIP",
    r"\.[qk]_norm\.|\.[qkv]_bias$": "normalised or partly biased queries and keys, as EVA",
    r"rope|\.freqs": "rotary positions, as EVA and DINOv3",
    r"mlp\.(w12|w3|weights_in|fc1_g)|swiglu": "a gated MLP, as DINOv2's ViT-g and EVA",
    r"dist(illation)?_token": "a distillation token, as DeiT",
    r"logit_scale|cpb_mlp": "attention by cosine, as Swin v2",
    r"absolute_pos_embed": "absolute positions in a Swin",
    r"downsample_layers\.|\.conv_dw\.|\.dwconv\.": "convolutions in its stages, as ConvNeXt",
    r"layer1\.0\.conv1|encoder\.stages\.\d+\.layers|(?:^|\.)bn1\.": "stages of convolutions, as "
    "ResNet",
}
"""Names that a ViT or Swin of ours cannot have, and what they tell."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A network to build, and its tensors as that network stores them."""

    config: ModelConfig
    size: tuple[int, int]
    """Height and width of the views that it saw."""
    tensors: dict[str, Tensor]
    guesses: tuple[str, ...] = ()
    """In words, what neither tensors nor file say, and what is assumed."""
    reading: Channels = PICTURES
    """How its images were read."""


def recognise_network(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    said: Said,
    layout: str,
    source: str,
    heads: int | None = None,
) -> Recognised:
    """The network's settings, with the image size for which it was built, from what is known of it.

    Args:
        tensors: a backbone in our names.
        settings: our configuration as plain data; anything else is not read.
        said: what the file says.
        layout: where the names came from; see `ibot.weights.rename`.
        source: the file, for messages.
        heads: attention heads of a ViT, where the file does not say.

    Raises WeightsError when the tensors are neither a ViT nor a Swin, or no number of heads or size
    fits.
    """
    tensors = dict(tensors)
    if is_configuration(settings):
        config = from_plain(dict(settings))
        view = config.augment.global_size
        return Recognised(
            replace(config.model, pos_size=config.model.pos_size or view),
            view,
            tensors,
            reading=config.data.reading,
        )
    embedding = tensors.get("patch_embed.proj.weight")
    if embedding is not None and embedding.ndim == 4 and min(embedding.shape) > 0:
        if "pos_embed" in tensors and "cls_token" in tensors:
            return _vit(tensors, said, layout, source, heads)
        if "layers.0.blocks.0.attn.relative_position_bias_table" in tensors:
            return _swin(tensors, said, layout, source)
    # For a network of another kind there is no remedy, so none is named.
    alien = foreign(tensors)
    raise WeightsError(
        f"'{source}' holds no network that ibot knows",
        why=f"it is neither a ViT nor a Swin: {alien or _absent(tensors)}",
        fix="" if alien else "`ibot weights inspect` lists what the file holds",
    )


def foreign(tensors: Mapping[str, Tensor]) -> str:
    """In words, which parts no network of ours has; empty if none is known."""
    found = {}
    for pattern, words in FOREIGN.items():
        if (name := next((name for name in tensors if re.search(pattern, name)), None)) is not None:
            found[words] = name
    listed = [f"{words} ({name})" for words, name in list(found.items())[:2]]
    return f"it has {'; '.join(listed)}" if listed else ""


def _absent(tensors: Mapping[str, Tensor]) -> str:
    needed = {
        "patch_embed.proj.weight": "patch embedding",
        "cls_token": "class token",
        "pos_embed": "position table",
    }
    lacking = [words for name, words in needed.items() if name not in tensors]
    return f"it has no {', no '.join(lacking)}; found {', '.join(list(tensors)[:4])}"


def _vit(
    tensors: dict[str, Tensor], said: Said, layout: str, source: str, heads: int | None
) -> Recognised:
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    tensors, size = _with_plain_table(tensors, said.sizes, patch, source)
    tensors = _with_biases(tensors)
    guesses = list(_guesses(said, layout, channels))
    known = heads or said.heads
    if not known:
        known = KNOWN_HEADS.get(width, max(1, width // HEAD_WIDTH))
        guesses.insert(
            0, f"heads: {known} are assumed, {width // known} wide each (--heads N says better)"
        )
    if width % known:
        raise WeightsError(
            f"'{source}' cannot have {known} heads",
            why=f"its tokens are {width} wide",
            fix="--heads N",
        )
    mlp = tensors.get("blocks.0.mlp.fc1.weight")
    hidden = 4 * width if mlp is None else mlp.shape[0]
    config = ModelConfig(
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\."),
        heads=known,
        patch=patch,
        mlp_ratio=hidden / width,
        norm_eps=said.norm_eps or _eps(layout, tensors),
        layer_scale=1.0 if "blocks.0.gamma_1" in tensors else 0.0,
        mean_pooling="fc_norm.weight" in tensors and "norm.weight" not in tensors,
        registers=tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0,
        drop_path=0.0,
        pos_size=size,
        pos_interp=said.pos_interp or _rule(layout, tensors),
    )
    if said.averages and not config.mean_pooling:
        guesses.append("class output: the class token, where that project averages the patches")
    config = _with_said(config, said, channels)
    return Recognised(config, size, tensors, tuple(guesses), said.reading)


def _swin(tensors: dict[str, Tensor], said: Said, layout: str, source: str) -> Recognised:
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    stages = _count(tensors, r"layers\.(\d+)\.")
    tables = [
        tensors[f"layers.{k}.blocks.0.attn.relative_position_bias_table"] for k in range(stages)
    ]
    sides = [(math.isqrt(len(table)) + 1) // 2 for table in tables]
    guesses = list(_guesses(said, layout, channels))
    sizes = [size for size in said.sizes if _window_sides(size, patch, max(sides), stages) == sides]
    # A stage of fewer tokens than the window has a smaller table: that tells the size for which it
    # was built.
    shrunk = [side * patch * 2**k for k, side in enumerate(sides) if side < max(sides)]
    if not sizes:
        whole = PUBLISHED_SIZE // patch // 2 ** (stages - 1) % max(sides) == 0
        # Else one window in the last stage, as in every published network.
        usual = PUBLISHED_SIZE if whole else max(sides) * patch * 2 ** (stages - 1)
        side = shrunk[0] if shrunk else usual
        sizes = [(side, side)]
        guesses = [*guesses, *([] if shrunk else [f"size: built for {side} pixels"])]
    heads = tuple(table.shape[1] for table in tables)
    if any(width * 2**k % count for k, count in enumerate(heads)):
        raise WeightsError(
            f"'{source}' cannot have {heads} heads", why=f"its first tokens are {width} wide"
        )
    config = ModelConfig(
        kind="swin",
        width=width,
        depths=tuple(_count(tensors, rf"layers\.{k}\.blocks\.(\d+)\.") for k in range(stages)),
        stage_heads=heads,
        window=max(sides),
        patch=patch,
        mlp_ratio=tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
        norm_eps=said.norm_eps or EPS.get(f"{layout} swin", 1e-6),
        drop_path=0.0,
        pos_size=sizes[0],
    )
    config = _with_said(config, said, channels)
    tensors = _with_biases(tensors)
    return Recognised(config, sizes[0], tensors, tuple(guesses), said.reading)


def _with_said(config: ModelConfig, said: Said, channels: int) -> ModelConfig:
    """With activation, channels, mean and deviation of the file, where it has some."""
    if channels != len(RGB):
        config = replace(
            config,
            channels=tuple(str(number) for number in range(1, channels + 1)),
            mean=(fmean(IMAGENET_MEAN),) * channels,
            std=(fmean(IMAGENET_STD),) * channels,
        )
    given = {"act": said.act, "channels": said.channels, "mean": said.mean, "std": said.std}
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def _guesses(said: Said, layout: str, channels: int) -> Iterator[str]:
    """What is assumed of any network; only what files really differ in."""
    if channels != len(RGB) and said.channels is None:
        last = f" to {channels}" if channels > 1 else ""
        yield f"channels: called 1{last} (channel_names in a config.json beside it says better)"
    if said.mean is None and channels != len(RGB):
        yield (
            "mean and deviation: of every channel the average of ImageNet's (image_mean and "
            "image_std in a config.json beside it say better)"
        )
    elif said.mean is None:
        yield (
            "mean and deviation: ImageNet's (image_mean and image_std in a config.json beside it "
            "say better)"
        )
    if layout == "huggingface" and not said.norm_eps:
        yield (
            "layer norms: the epsilon of Hugging Face's defaults (a config.json beside it says "
            "better)"
        )
    if not said.project and layout == "published" and said.pos_interp is None:
        yield "other image sizes: positions are resampled as in iBOT and DINO"
    if layout == "torchvision" and said.pos_interp is None:
        yield (
            "other image sizes: positions are resampled as in MAE, not as by torchvision's own tool"
        )


def _eps(layout: str, tensors: Mapping[str, Tensor]) -> float:
    """Hugging Face's ViT has 1e-12, its DINOv2, which has gains on its branches, 1e-6."""
    return 1e-6 if "blocks.0.gamma_1" in tensors else EPS.get(f"{layout} vit", 1e-6)


def _rule(layout: str, tensors: Mapping[str, Tensor]) -> Any:
    """How a layout's project resamples positions; DINOv2 without registers as DINO."""
    if layout in ("huggingface", "torchvision"):
        return "exact"
    timm = layout == "timm" and ("masked_embed" not in tensors or "register_tokens" in tensors)
    return "antialias" if timm else "published"


def _with_plain_table(
    tensors: dict[str, Tensor], sizes: tuple[tuple[int, int], ...], patch: int, source: str
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """A position table of one row for the class token and one for each patch, and the image size
    that it is for.

    Timm may give the class token no row, or every register one, which is added to the register
    here. Raises WeightsError where the number of rows is no square and the file names no size.
    """
    table, cls = tensors["pos_embed"], tensors["cls_token"]
    registers = tensors.get("register_tokens")
    table = table if table.ndim == 3 else table[None]
    rows, extra = table.shape[1], 0 if registers is None else registers.shape[1]
    found = next(
        _tables(rows, extra, [(size[0] // patch, size[1] // patch) for size in sizes]), None
    )
    if found is None:
        raise WeightsError(
            f"the position table of '{source}' belongs to images of unknown shape",
            why=foreign(tensors)
            or f"it has {rows} rows, which is no square of patches and a class token",
            fix='say it in a config.json beside the file: {"image_size": [HEIGHT, WIDTH]}',
        )
    leading, grid = found
    if leading == 0:
        tensors = {**tensors, "pos_embed": torch.cat([torch.zeros_like(cls), table], dim=1)}
    elif leading > 1:
        assert registers is not None
        kept = torch.cat([table[:, :1], table[:, leading:]], dim=1)
        tensors = {**tensors, "pos_embed": kept, "register_tokens": registers + table[:, 1:leading]}
    return tensors, (grid[0] * patch, grid[1] * patch)


def _tables(
    rows: int, registers: int, grids: list[tuple[int, int]]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """What `rows` of a table may be, likeliest first: rows before the patches, and their grid."""
    leading = list(dict.fromkeys((1, 0, 1 + registers)))
    for grid in grids:
        yield from ((before, grid) for before in leading if rows - before == grid[0] * grid[1] > 0)
    for before in leading:
        side = math.isqrt(max(0, rows - before))
        if 0 < side**2 == rows - before:
            yield before, (side, side)


def _with_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the biases that no block has: a network without them is the same function."""
    added = {}
    for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        if not any(name.endswith(f".{part}.bias") for name in tensors):
            weights = {
                name: t
                for name, t in tensors.items()
                if name.endswith(f".{part}.weight") and t.ndim == 2
            }
            added |= {
                f"{name[: -len('weight')]}bias": t.new_zeros(len(t)) for name, t in weights.items()
            }
    return {**tensors, **added}


def _window_sides(size: tuple[int, int], patch: int, window: int, stages: int) -> list[int]:
    return [min(window, min(size) // patch // 2**k) for k in range(stages)]


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers appear at the group of `pattern` in the names."""
    return len({match[1] for name in tensors if (match := re.match(pattern, name))})
