"""Backbones for other projects: written, loaded again there, and compared token by token before anything is kept."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ibot.config.override import to_plain
from ibot.config.schema import AugmentConfig, Config
from ibot.data.pixels import MEAN, STD
from ibot.errors import MissingExtra, UserError, WeightsError
from ibot.models.backbone import BackboneModule, build_backbone
from ibot.models.swin import WindowBlock
from ibot.models.vit import VisionTransformer
from ibot.process import ignored_warnings
from ibot.weights.architecture import HEAD_WIDTH
from ibot.weights.read import Loaded, load_backbone
from ibot.weights.rename import to_huggingface, to_timm
from ibot.weights.write import save_tensors

TOLERANCE = 1e-4
"""Largest difference of any token between this project and the target, float32."""
TIMM_EPS = {"vit": 1e-6, "swin": 1e-5}
HUGGINGFACE_SWIN_EPS = 1e-5
"""Of the norms that its configuration does not reach."""
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [B, 3, H, W] -> class tokens [B, D] and patch tokens [B, N, D], computed by the target."""


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of export."""

    write: Callable[[Loaded, Path], None]
    """Write weights whose native size is `loaded.size`."""
    open: Callable[[Path, Loaded], Forward]
    """Load what was written, as its users will; the settings serve layouts that hold none."""
    suffix: str
    """Of the file; empty for a folder."""
    one_size: tuple[str, ...] = ()
    """Kinds of networks of which a file serves one image size: the target's rule for others is not ours."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest absolute differences at one image size."""

    size: tuple[int, int]
    cls: float
    patches: float


def export_backbone(loaded: Loaded, target: str, out: Path, size: tuple[int, int] | None = None) -> list[Difference]:
    """Write a backbone for `target`, load it there, and compare at three sizes.

    Args:
        loaded: the backbone and its settings.
        target: a key of `TARGETS`.
        out: the file or folder to write; must not exist. Missing folders above it are created.
        size: height and width for which a file that serves one size is written; default: that of the training.

    Returns:
        The differences at the size written, at another one, and at one that is not square. A target that serves one
        size is written once more for each of the others.

    Raises:
        UserError: `out` exists, has the wrong suffix or cannot be written, or a size is named for a file that serves
            all.
        MissingExtra: the target's library is absent.
        WeightsError: the target cannot hold this network, or a difference is above `TOLERANCE`; nothing is left.
    """
    kind = TARGETS[target]
    if out.exists():
        raise UserError(f"'{out}' exists", fix="name a new file or folder with --out")
    if out.suffix != kind.suffix and kind.suffix:
        raise UserError(f"'{out}' does not end with {kind.suffix}", fix=f"name it {out.with_suffix(kind.suffix)}")
    one_size = loaded.config.kind in kind.one_size
    if size and not one_size:
        raise UserError(f"a {loaded.config.kind} exported to {target} serves every size", fix="leave out --size")
    native = at_size(loaded, size or loaded.size) if one_size else replace(loaded, size=loaded.built_for)
    created = create_parents(out)
    try:
        kind.write(native, out)
        served = kind.open(out, native)
        differences = [_compare(native, served, native.size)]
        for other in other_sizes(native, target):
            differences.append(_compare_at(loaded, kind, other) if one_size else _compare(native, served, other))
    except BaseException:
        remove(out, created)
        raise
    worst = max(differences, key=lambda d: max(d.cls, d.patches))
    if not max(worst.cls, worst.patches) <= TOLERANCE:
        remove(out, created)
        raise WeightsError(
            f"the export to {target} does not reproduce the network",
            why=f"at {worst.size[0]}x{worst.size[1]} the class token differs by {worst.cls:.1e}, patches by "
            f"{worst.patches:.1e}; {TOLERANCE:g} is allowed",
            fix="nothing was kept; export to safetensors or onnx instead",
        )
    return differences


def at_size(loaded: Loaded, size: tuple[int, int]) -> Loaded:
    """The same network for images of one size: a ViT's position table is resampled once and for all."""
    backbone = loaded.backbone
    if size == loaded.built_for or not isinstance(backbone, VisionTransformer):
        return replace(loaded, config=replace(loaded.config, pos_size=loaded.built_for), size=size)
    config = replace(loaded.config, pos_size=size)
    resized = build_backbone(config, size).eval()
    state = {name: tensor for name, tensor in backbone.state_dict().items() if name != "masked_embed"}
    with torch.no_grad():
        state["pos_embed"] = backbone.positions(backbone.token_grid(*size), square=size[0] == size[1])
    resized.load_state_dict(state)
    return replace(loaded, backbone=resized, config=config, size=size)


def other_sizes(loaded: Loaded, target: str) -> list[tuple[int, int]]:
    """A larger or smaller size and one that is not square, at which the target's rules give what ours give.

    A Swin there follows rules of its own: timm pads after the shift, so whole windows are needed, which twice the size
    has; Hugging Face shifts in the last stage where the image is larger than in training.
    """
    height, width = loaded.size
    if loaded.config.kind == "swin":
        if target == "timm":
            return [(2 * height, 2 * width), (height, 2 * width)]
        if target == "huggingface":
            fewer = 4 * loaded.config.patch
            return [(height - fewer, width - fewer), (height - fewer, width)]
    step = loaded.config.stride
    return [(height + 2 * step, width + 2 * step), (height, width + 3 * step)]


def create_parents(path: Path) -> list[Path]:
    """Create the folders above a file or folder; returns those that were not there, the innermost first.

    Raises UserError where that is impossible.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder '{path.parent}' cannot be created", why=error.strerror or str(error), fix="name another --out"
        ) from None
    return missing


def remove(path: Path, parents: Sequence[Path] = ()) -> None:
    """Delete what an export left, and those folders above it that it created."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    for folder in parents:
        if any(folder.iterdir()):  # somebody else uses it by now
            break
        folder.rmdir()


@torch.no_grad()
def _compare(loaded: Loaded, forward: Forward, size: tuple[int, int]) -> Difference:
    generator = torch.Generator().manual_seed(0)
    cls_error = patch_error = 0.0
    for batch in (2, 3):  # a batch size frozen into the export would show
        images = torch.randn(batch, 3, *size, generator=generator)
        ours = loaded.backbone.float()(images)
        cls, patches = forward(images)
        cls_error = max(cls_error, (cls - ours.cls).abs().max().item())
        patch_error = max(patch_error, (patches - ours.patches).abs().max().item())
    return Difference(size, cls_error, patch_error)


def _compare_at(loaded: Loaded, kind: Target, size: tuple[int, int]) -> Difference:
    """Write once more, for another size, and compare there."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / f"other{kind.suffix}"
        resized = at_size(loaded, size)
        kind.write(resized, other)
        return _compare(loaded, kind.open(other, resized), size)


def _state(loaded: Loaded) -> dict[str, Tensor]:
    """Tensors of the backbone; the mask token serves training only."""
    state = loaded.backbone.state_dict()
    return {name: tensor.detach().float().contiguous() for name, tensor in state.items() if name != "masked_embed"}


def with_epsilon(state: dict[str, Tensor], own: float, wanted: float) -> dict[str, Tensor]:
    """The same function for layer norms of another epsilon.

    x / sqrt(var(x) + own) = s x / sqrt(var(s x) + s^2 own), so the residual stream is scaled by s = sqrt(wanted / own):
    everything that is written to it, and the input of the norm behind the patch embedding.
    """
    if own == wanted:
        return state
    scale = (wanted / own) ** 0.5
    written = (
        r"(^|\.)(pos_embed|cls_token|register_tokens|(patch_embed\.(proj|norm)|attn\.proj|mlp\.fc2|reduction)\.\w+)$"
    )
    return {name: tensor * scale if re.search(written, name) else tensor for name, tensor in state.items()}


def _write_safetensors(loaded: Loaded, out: Path) -> None:
    model = replace(loaded.config, pos_size=loaded.built_for)
    config = Config(model=model, augment=AugmentConfig(global_size=loaded.size))
    tensors = {name: t for name, t in _state(loaded).items() if not name.endswith("relative_position_index")}
    save_tensors(tensors, out, {"config": json.dumps(to_plain(config)), "format": "pt"})


def _write_published(loaded: Loaded, out: Path) -> None:
    config = loaded.config
    content: dict[str, Any] = {"state_dict": _state(loaded)}
    if config.kind == "vit" and config.heads * HEAD_WIDTH != config.width:  # what no reader can find from the shapes
        content["settings"] = {"num_attention_heads": config.heads}
    torch.save(content, out)


def _open_ours(path: Path, loaded: Loaded) -> Forward:
    backbone = load_backbone(path)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        output = backbone(images)
        return output.cls, output.patches

    return forward


def _write_timm(loaded: Loaded, out: Path) -> None:
    _library("timm")
    config = loaded.config
    arguments: dict[str, Any] = {"embed_dim": config.width, "num_classes": 0, "mlp_ratio": config.mlp_ratio}
    if config.kind == "vit":
        architecture = "vit_small_patch16_224"
        arguments |= {"img_size": list(loaded.size), "patch_size": config.patch, "depth": config.depth,
                      "num_heads": config.heads, "reg_tokens": config.registers}  # fmt: skip
        arguments |= {"init_values": 1.0} if config.layer_scale else {}
        arguments |= {"global_pool": "avg", "fc_norm": True} if config.mean_pooling else {"global_pool": "token"}
    else:
        architecture = "swin_tiny_patch4_window7_224"
        arguments |= {"img_size": list(loaded.built_for), "patch_size": config.patch, "depths": list(config.depths),
                      "num_heads": list(config.stage_heads), "window_size": config.window,
                      "strict_img_size": False}  # fmt: skip
    out.mkdir()
    state = with_epsilon(_state(loaded), config.norm_eps, TIMM_EPS[config.kind])
    save_tensors(to_timm(state), out / "model.safetensors", {"format": "pt"})
    pretrained = {
        "input_size": [3, *loaded.size], "mean": MEAN, "std": STD,
        "interpolation": "bicubic", "crop_pct": 0.875, "num_classes": 0, "first_conv": "patch_embed.proj",
    }  # fmt: skip
    settings = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": pretrained, "num_classes": 0}
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _open_timm(path: Path, loaded: Loaded) -> Forward:
    network = _library("timm").create_model(f"local-dir:{path.resolve()}", pretrained=True).eval()
    vit = hasattr(network, "num_prefix_tokens")

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = network.forward_features(images)
        patches = tokens[:, network.num_prefix_tokens :] if vit else tokens.flatten(1, 2)
        return network.forward_head(tokens, pre_logits=True), patches

    return forward


def _write_huggingface(loaded: Loaded, out: Path) -> None:
    transformers = _library("transformers")
    config = loaded.config
    unsupported = [name for name in ("layer_scale", "mean_pooling", "registers") if getattr(config, name)]
    sides = {part.side for part in loaded.backbone.modules() if isinstance(part, WindowBlock)}
    if unsupported or len(sides) > 1:
        reason = f"model.{unsupported[0]}" if unsupported else f"windows of several sizes, {sorted(sides)}"
        raise WeightsError(
            "Hugging Face's network cannot hold this backbone", why=f"it has no {reason}", fix="export to timm or onnx"
        )
    if config.kind == "vit":
        settings = transformers.ViTConfig(
            hidden_size=config.width, num_hidden_layers=config.depth, num_attention_heads=config.heads,
            intermediate_size=int(config.width * config.mlp_ratio), layer_norm_eps=config.norm_eps,
            image_size=list(loaded.size), patch_size=config.patch, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
    else:
        settings = transformers.SwinConfig(
            image_size=loaded.size[0], patch_size=config.patch, embed_dim=config.width, depths=list(config.depths),
            num_heads=list(config.stage_heads), window_size=config.window, mlp_ratio=config.mlp_ratio,
            layer_norm_eps=HUGGINGFACE_SWIN_EPS, drop_path_rate=0.0,
        )  # fmt: skip
    settings.architectures = ["ViTModel" if config.kind == "vit" else "SwinModel"]
    out.mkdir()
    settings.save_pretrained(out)
    state = with_epsilon(_state(loaded), config.norm_eps, settings.layer_norm_eps)
    save_tensors(to_huggingface(state), out / "model.safetensors", {"format": "pt"})
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_normalize": True, "do_rescale": True,
        "size": {"height": loaded.size[0], "width": loaded.size[1]}, "resample": 3,
        "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def _open_huggingface(path: Path, loaded: Loaded) -> Forward:
    transformers = _library("transformers")
    vit = loaded.config.kind == "vit"
    network, report = (transformers.ViTModel if vit else transformers.SwinModel).from_pretrained(
        path, add_pooling_layer=False, output_loading_info=True, local_files_only=True
    )
    if any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise WeightsError("Hugging Face does not take every tensor", why=str(report))
    network.eval()

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = network(pixel_values=images).last_hidden_state
        return (tokens[:, 0], tokens[:, 1:]) if vit else (tokens.mean(dim=1), tokens)

    return forward


class _Tokens(nn.Module):
    """A backbone whose outputs are plain tensors, as ONNX wants them."""

    def __init__(self, backbone: BackboneModule) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.backbone(images)
        return output.cls, output.patches


def _write_onnx(loaded: Loaded, out: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _library(name)
    network = _Tokens(copy.deepcopy(loaded.backbone)).float().eval()
    with ignored_warnings(FutureWarning):  # of the exporter about itself
        torch.onnx.export(
            network, (torch.zeros(2, 3, *loaded.size),), str(out), input_names=["images"],
            output_names=["cls", "patches"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def _open_onnx(path: Path, loaded: Loaded) -> Forward:
    runtime = _library("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        cls, patches = session.run(["cls", "patches"], {"images": images.numpy()})
        return torch.from_numpy(cls), torch.from_numpy(patches)

    return forward


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(name, "export") from None


TARGETS = {
    "safetensors": Target(_write_safetensors, _open_ours, ".safetensors"),
    "published": Target(_write_published, _open_ours, ".pth"),
    "timm": Target(_write_timm, _open_timm, "", one_size=("vit",)),
    "huggingface": Target(_write_huggingface, _open_huggingface, "", one_size=("vit",)),
    "onnx": Target(_write_onnx, _open_onnx, ".onnx", one_size=("vit", "swin")),
}
