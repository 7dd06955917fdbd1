"""The one reader of weights: own runs and checkpoints, and the published files (spec 11).

Nothing is executed on loading: safetensors, or pickles restricted to tensors, containers and plain settings.
"""

from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibot.config.override import from_plain
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.models.backbone import build_backbone
from ibot.models.vit import VisionTransformer

OWN_FILES = {"teacher": "teacher.safetensors", "student": "model.safetensors"}
PREFIXES = ("module.", "backbone.")
MAY_BE_UNUSED = ("masked_embed",)
HEAD_WIDTH = 64
"""Width of an attention head in every published ViT."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors of one network and what is known about it."""

    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    """Empty for files without a head."""
    settings: dict[str, Any]
    """Our configuration as plain data, or the published arguments; empty if the file has none."""
    source: str


def load_weights(path: str | Path, key: str = "teacher") -> Weights:
    """Read the weights of a run folder, a checkpoint folder, a .safetensors file, or a published .pth file.

    Args:
        path: what to read.
        key: which network, "teacher" or "student".

    Raises:
        WeightsError: absent, damaged or unknown; contents that would run code are refused.
    """
    file = _locate(Path(path), key)
    if file.suffix == ".safetensors":
        tensors, settings = _read_safetensors(file)
    else:
        tensors, settings = _read_pickle(file, key)
    names = {_without_prefixes(name): tensor for name, tensor in tensors.items()}
    head = {name: tensor for name, tensor in names.items() if name.startswith(("head.", "fc."))}
    backbone = {name: tensor for name, tensor in names.items() if name not in head}
    return Weights(backbone, head, settings, str(file))


def load_backbone(path: str | Path, key: str = "teacher", *, heads: int | None = None) -> VisionTransformer:
    """Build the backbone of a weights file and fill it; every tensor must fit. In evaluation mode, on the CPU.

    heads: attention heads, where the file does not say and they are not D / 64 wide.
    Raises WeightsError.
    """
    weights = load_weights(path, key)
    backbone, _ = _fill(weights, heads)
    return backbone.eval()


def evaluation_size(path: str | Path, key: str = "teacher") -> tuple[int, int]:
    """Height and width of the global views with which the weights were trained: the default size of evaluations."""
    weights = load_weights(path, key)
    _, size = _model_settings(weights, None)
    return size


def _fill(weights: Weights, heads: int | None) -> tuple[VisionTransformer, tuple[int, int]]:
    config, size = _model_settings(weights, heads)
    backbone = build_backbone(config, size)
    own = backbone.state_dict()
    tensors = {name: t for name, t in weights.backbone.items() if name not in MAY_BE_UNUSED}
    missing, unused = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    wrong = [
        f"{n} {tuple(tensors[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in tensors and own[n].shape != tensors[n].shape
    ]
    if missing or unused or wrong:
        raise WeightsError(
            f"'{weights.source}' does not fit a ViT",
            why=f"missing {missing[:3]} ({len(missing)}), unused {unused[:3]} ({len(unused)}), wrong shape {wrong[:2]}",
            fix="give a ViT checkpoint of this project or of the published code",
        )
    backbone.load_state_dict(tensors)
    return backbone, size


def _locate(path: Path, key: str) -> Path:
    if key not in OWN_FILES:
        raise WeightsError(f"unknown network '{key}'", fix="use teacher or student")
    if path.is_dir():
        last = path / "checkpoints" / "last"
        if last.is_file():
            path = path / "checkpoints" / last.read_text().strip()
        file = path / OWN_FILES[key]
        if not file.is_file():
            raise WeightsError(
                f"'{path}' holds no weights",
                why=f"there is no checkpoints/last and no {OWN_FILES[key]} in it",
                fix="name a run folder, one of its checkpoint folders, or a weights file",
            )
        return file
    if not path.is_file():
        raise WeightsError(f"there is no file or folder '{path}'", fix="check the path")
    return path


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(metadata.get("config", "{}"))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"'{file}' cannot be read", why=str(error), fix="copy the file again") from None


def _read_pickle(file: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    allowed = [argparse.Namespace, *_numpy_numbers()]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{file}' is refused",
            why="it holds more than tensors and settings: " + _first_words(error),
            fix="do not load it, or ask its author for a safetensors file",
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"'{file}' cannot be read", why=_first_words(error), fix="copy the file again") from None
    return _choose(content, key, file)


def _numpy_numbers() -> list[Any]:
    """What a restricted unpickler needs for numpy numbers: published checkpoints keep learning rates as such."""
    scalar = np.float64(0).__reduce__()[0]  # the public way to a private function
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since numpy 2
    types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32")]
    return [*((scalar, name) for name in names), np.dtype, *types]


def _first_words(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _choose(content: Any, key: str, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The named network of a checkpoint, else `state_dict`, else the dictionary itself."""
    if not isinstance(content, dict):
        raise WeightsError(f"'{file}' holds a {type(content).__name__}, not named tensors")
    arguments = content.get("args")
    settings = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    for name in (key, "state_dict"):
        if isinstance(content.get(name), dict):
            return content[name], settings
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return content, settings
    keys = ", ".join(str(name) for name in list(content)[:6])
    raise WeightsError(f"'{file}' holds no network '{key}'", why=f"its keys are {keys}", fix="choose another --key")


def _without_prefixes(name: str) -> str:
    """Cut `module.` and `backbone.` at the start only: further inside they belong to the name."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _model_settings(weights: Weights, heads: int | None) -> tuple[ModelConfig, tuple[int, int]]:
    """The network's settings: from our own configuration, else from the shapes of the tensors."""
    if "model" in weights.settings:
        config = from_plain(weights.settings)
        return config.model, config.model.pos_size or config.augment.global_size
    tensors = weights.backbone
    if "patch_embed.proj.weight" not in tensors or "pos_embed" not in tensors or "cls_token" not in tensors:
        kind = "a Swin" if any("relative_position" in name for name in tensors) else "of an unknown kind"
        raise WeightsError(
            f"'{weights.source}' is not a ViT",
            why=f"it has no patch embedding with a position table and a class token; it looks {kind}".replace(
                "looks a", "looks like a"
            ),
            fix="Swin is not supported yet; give a ViT checkpoint",
        )
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    published_heads = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16}
    by_name = published_heads.get(weights.settings.get("arch", ""), 0)
    chosen = heads or (by_name if by_name * HEAD_WIDTH == width else 0) or max(1, width // HEAD_WIDTH)
    config = ModelConfig(
        width=width,
        depth=depth,
        heads=chosen,
        patch=patch,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        layer_scale=1.0 if "blocks.0.gamma_1" in tensors else 0.0,
        mean_pooling="fc_norm.weight" in tensors,
        registers=tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0,
        drop_path=0.0,
    )
    return replace(config, pos_size=(side * patch, side * patch)), (side * patch, side * patch)
