"""What a file says beside its tensors, whatever project wrote it: `understood` reads it.

Known are the configurations of Hugging Face (config.json, preprocessor_config.json) and timm
(config.json), the arguments of iBOT, DINO and MoCo v3 in their checkpoints, and what our own
exports write (`told`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ibot.config.override import to_plain
from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD, PICTURES, RGB, Channels
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.weights.networks import role_of
from ibot.words import counted

ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python", "geluacc"), "gelu"),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate", "gelu_tanh"), "gelu_tanh"
    ),
    **dict.fromkeys(("quick_gelu", "quickgelu"), "quick_gelu"),
    **dict.fromkeys(("silu", "swish"), "silu"),
    "relu": "relu",
}
"""Other projects' names of activations, and ours."""
PUBLISHED_WIDTHS = {"vit_tiny": 192, "vit_small": 384, "vit_base": 768, "vit_large": 1024}
"""Networks that the arguments of iBOT and DINO name; their heads are 64 wide."""
MOCO_HEADS = 12
"""Of MoCo v3's ViT-S, 32 wide each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is known of a network beside its tensors; what is None nobody says."""

    project: Literal["", "ours", "huggingface", "timm"] = ""
    """Whose configuration it is; "ours" also stands for the published code's arguments."""
    heads: int | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths of the images for which it may have been built, the surest first."""
    norm_eps: float | None = None
    act: str | None = None
    """A value of `ModelConfig.act`."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: tuple[str, ...] | None = None
    """Names of the channels of its images; only our own files say some."""
    reading: Channels = PICTURES
    """How images of these were read in its training."""
    pos_interp: Literal["published", "exact", "antialias"] | None = None
    averages: bool = False
    """Whether its class output is the mean of the patches."""


def understood(
    settings: Mapping[str, Any],
    others: Mapping[str, Tensor],
    place: str,
    layout: str,
    width: int,
    source: str,
    count: int = len(RGB),
) -> Said:
    """Read settings of any known project.

    Args:
        settings: as plain data; may be empty.
        others: what stands beside the network's tensors: the masks of a Swin tell the size of its
            maps.
        place: of the network in its file; see `ibot.weights.networks`.
        layout: whose names it has; see `ibot.weights.rename`.
        width: of the tokens.
        source: the file, for messages.
        count: of the channels that the network reads.

    Raises WeightsError for an activation or a normalisation that cannot be computed here, and for
    rotary positions.
    """
    given = settings.get
    arguments, pretrained = (_dict(given(name)) for name in ("model_args", "pretrained_cfg"))
    _refuse_rotary(settings, arguments, source)
    channels, reading = _channels(settings, count)
    mean, std = _statistics(settings, pretrained, count, source)
    project = _project(settings)
    ours = project == "ours" and "image_mean" not in settings
    if mean is None and ours and count == len(RGB):
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    sizes = (
        arguments.get("img_size"),
        given("image_size"),
        pretrained.get("input_size"),
        given("input_size"),
    )
    moco = given("arch_beside") == "vit_small" or (
        given("arch") == "vit_small" and "base_encoder" in place.split(".")
    )
    return Said(
        project=project,
        heads=_heads(settings, arguments, width, moco),
        sizes=tuple(pair for pair in (*map(_pair, sizes), _size_of_maps(others)) if pair),
        norm_eps=given("layer_norm_eps"),
        act=_act(settings, arguments, source),
        mean=mean,
        std=std,
        channels=channels,
        reading=reading,
        pos_interp=_rule(settings, project, place, layout, moco),
        averages=(arguments.get("global_pool") or given("global_pool")) in ("avg", "avgmax"),
    )


def other_network(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], layout: str) -> str:
    """In words, why settings beside a file belong to another network; empty if they may fit.

    Args:
        settings: as plain data; those that name no project, such as an image size alone, are the
            user's own words.
        tensors: the network, in our names.
        layout: whose names its file has; see `ibot.weights.rename`.
    """
    project, arguments = _project(settings), _dict(settings.get("model_args"))
    # A Swin's widths differ.
    ends = tensors.get("patch_embed.proj.weight"), tensors.get("norm.weight")
    widths = {len(tensor) for tensor in ends if tensor is not None and tensor.ndim}
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    named = [settings.get(name) for name in ("hidden_size", "embed_dim", "num_features")]
    said = [width for width in (*named, arguments.get("embed_dim")) if width is not None]
    if wrong := [width for width in said if width not in widths]:
        return f"it is of width {wrong[0]}, the tensors of {' and '.join(map(str, sorted(widths)))}"
    depths = (settings.get("num_hidden_layers"), arguments.get("depth"))
    if depth and (wrong := [said for said in depths if said not in (None, depth)]):
        return f"it is of {wrong[0]} blocks, the tensors of {depth}"
    if project not in ("huggingface", "timm"):
        return ""
    if (layout == "huggingface") != (project == "huggingface"):
        name = "Hugging Face" if project == "huggingface" else "timm"
        return f"it is of {name}, the names of the tensors are not"
    return "" if said else "it does not say of which width it is"


def told(
    config: ModelConfig, size: tuple[int, int], reading: Channels = PICTURES
) -> dict[str, Any]:
    """What a file of ours must say beside tensors that are stored without our configuration;
    `understood` reads it.

    Only what differs from the published networks is said. size: height and width for which it was
    built. reading: how images of its channels are read.
    """
    published = ModelConfig()
    fields = {
        "norm_eps": "layer_norm_eps",
        "act": "hidden_act",
        "mean": "image_mean",
        "std": "image_std",
    }
    fields["pos_interp"] = "pos_interp"
    said = {
        name: getattr(config, field)
        for field, name in fields.items()
        if getattr(config, field) != getattr(published, field)
    }
    if size[0] != size[1] or config.kind == "swin":  # whose tensors are the same for many sizes
        said["image_size"] = list(size)
    if config.kind == "vit" and config.heads * 64 != config.width:
        said["num_attention_heads"] = config.heads
    return {"project": "ours", **said, **told_channels(config, reading)}


def told_channels(config: ModelConfig, reading: Channels) -> dict[str, Any]:
    """What a file must say of channels, whatever project it is for; nothing of colour pictures."""
    if reading.of(config.channels) == PICTURES:
        return {}
    kept = {name: to_plain(reading)[name] for name in ("names", "files", "no_data")}
    return {"channel_names": list(config.channels), "channel_reading": kept}


def _project(settings: Mapping[str, Any]) -> Literal["", "ours", "huggingface", "timm"]:
    if settings.get("project") == "ours" or {"teacher_temp", "pred_ratio"} & set(settings):
        return "ours"
    if {"architecture", "model_args", "pretrained_cfg"} & set(settings):
        return "timm"
    return "huggingface" if {"model_type", "preprocessor"} & set(settings) else ""


def _refuse_rotary(settings: Mapping[str, Any], arguments: Mapping[str, Any], source: str) -> None:
    """Timm's vit_*_rope_ape_* have the tensors of a ViT, and turn queries and keys too."""
    named = str(settings.get("architecture") or settings.get("arch") or "")
    if re.search("(^|_)rope(_|$)", named) or arguments.get("use_rot_pos_emb"):
        raise WeightsError(
            f"'{source}' holds no network that ibot knows",
            why="it has rotary positions, which its tensors do not show: "
            f"{named or 'use_rot_pos_emb'}",
            fix="give weights of another network",
        )


def _heads(
    settings: Mapping[str, Any], arguments: Mapping[str, Any], width: int, moco: bool
) -> int | None:
    named = settings.get("num_attention_heads") or arguments.get("num_heads")
    if isinstance(named, int):
        return named
    if moco:
        return MOCO_HEADS
    published = PUBLISHED_WIDTHS.get(str(settings.get("arch", "")))
    return width // 64 if published == width else None


def _rule(
    settings: Mapping[str, Any], project: str, place: str, layout: str, moco: bool
) -> Literal["published", "exact", "antialias"] | None:
    """How the project resamples positions."""
    named = settings.get("pos_interp")
    if named in ("published", "exact", "antialias"):
        return named
    if project == "ours":
        return "published"
    if project == "timm":
        return "antialias"
    if project == "huggingface":
        return "antialias" if settings.get("model_type") == "dinov2_with_registers" else "exact"
    # MAE, DeiT and SimMIM store their one network as "model", and resample to the exact size, as
    # MoCo v3 would.
    alone = place.split(".")[0] == "model" and not role_of(place)
    return "exact" if moco or (alone and layout == "published") else None


def _act(settings: Mapping[str, Any], arguments: Mapping[str, Any], source: str) -> str | None:
    name = settings.get("hidden_act") or arguments.get("act_layer")
    if name is None:
        return "quick_gelu" if "quickgelu" in str(settings.get("architecture", "")) else None
    if str(name).lower() not in ACTIVATIONS:
        raise WeightsError(
            f"'{source}' uses the activation '{name}'",
            why=f"blocks here have one of {', '.join(sorted(set(ACTIVATIONS.values())))}",
            fix="give weights of another network",
        )
    return ACTIVATIONS[str(name).lower()]


def _channels(settings: Mapping[str, Any], count: int) -> tuple[tuple[str, ...] | None, Channels]:
    """Names of the channels, where the file has as many, and how images of these were read."""
    names = settings.get("channel_names")
    if not isinstance(names, list) or len(names) != count or not all(map(_is_text, names)):
        return None, PICTURES
    given = _dict(settings.get("channel_reading"))
    texts = {name: given[name] for name in ("names", "files") if _is_text(given.get(name))}
    no_data = given.get("no_data")
    values = no_data if isinstance(no_data, list) and all(map(_is_number, no_data)) else []
    return tuple(names), Channels(**texts, no_data=tuple(map(float, values)))


def _statistics(
    settings: Mapping[str, Any], pretrained: Mapping[str, Any], count: int, source: str
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of the levels of `count` channels, from Hugging Face's processor (0..255)
    or timm.
    """
    images = _dict(settings.get("preprocessor")) or settings
    mean, std = images.get("image_mean"), images.get("image_std")
    if images is not settings and not images.get("do_normalize", True):
        mean, std = 0.0, 1.0
    if mean is None or std is None:
        mean, std = (
            pretrained.get(name) or settings.get(name) or settings.get(f"image_{name}")
            for name in ("mean", "std")
        )
    elif images is not settings:
        # The processor scales by `rescale_factor` first; here bytes are divided by 255. Images of
        # named channels are levels before it.
        factor = float(images.get("rescale_factor", 1 / 255))
        factor = factor if images.get("do_rescale", True) else 1.0
        levels = math.isclose(255 * factor, 1.0) or settings.get("channel_names")
        scale = 1.0 if levels else 1 / (255 * factor)
        mean, std = (
            [scale * value for value in _numbers(values, count, source)] for values in (mean, std)
        )
    if mean is None or std is None:
        return None, None
    mean, std = (_numbers(values, count, source) for values in (mean, std))
    if min(std) <= 0:
        raise WeightsError(f"'{source}' cannot be used", why=f"its images are divided by {std}")
    return mean, std


def _numbers(values: Any, count: int, source: str) -> tuple[float, ...]:
    """One number for each of `count` channels.

    Three colours may be said of a network that reads another number of channels, as timm keeps
    those of the network that it was made from: each then has their average, as there.
    """
    several = isinstance(values, Sequence) and not isinstance(values, str)
    values = list(values) if several else [values] * count
    if len(values) not in (len(RGB), count) or not all(map(_is_number, values)):
        raise WeightsError(
            f"'{source}' cannot be used",
            why=f"the mean or deviation of its images, {values}, is not "
            f"{'three numbers' if count == len(RGB) else counted(count, 'number')}",
            fix="mend the file beside it that says so: config.json or preprocessor_config.json",
        )
    if len(values) != count:
        values = [sum(values) / len(values)] * count
    return tuple(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width from a number, a pair, or channels, height and width."""
    if isinstance(size, int):
        return int(size), int(size)
    sides = list(size)[-2:] if isinstance(size, (list, tuple)) else []
    whole = len(sides) == 2 and all(isinstance(side, int) for side in sides)
    return (int(sides[0]), int(sides[1])) if whole else None


def _size_of_maps(others: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The image size of a Swin's first stored mask; patches are 4 pixels wide."""
    mask = others.get("layers.0.blocks.1.attn_mask")
    if mask is None or mask.ndim != 3:
        return None
    side = 4 * math.isqrt(mask.shape[0]) * math.isqrt(mask.shape[1])
    return side, side


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
