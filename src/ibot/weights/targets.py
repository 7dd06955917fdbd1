"""The forms of an export: how each is written, opened, and fed with pictures by its users."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ibot.config.override import to_plain
from ibot.config.reading import DataConfig
from ibot.config.schema import AugmentConfig, Config
from ibot.data.pixels import shorter_side
from ibot.models.contract import Backbone
from ibot.system.process_state import ignored_warnings
from ibot.weights.libraries import (
    Forward,
    Prepare,
    backbone_tensors,
    library,
    open_huggingface,
    open_timm,
    prepare_huggingface,
    prepare_timm,
    write_huggingface,
    write_timm,
)
from ibot.weights.read import Loaded, load_backbone
from ibot.weights.said import told
from ibot.weights.write import save_tensors


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of export."""

    write: Callable[[Loaded, Path], None]
    """Write weights whose native size is `loaded.size`."""
    open: Callable[[Path, Loaded], Forward]
    """Load what was written, as its users will; the settings serve layouts that hold none."""
    kinds: tuple[str, ...] | None = None
    """Kinds of networks that it takes; None: all."""
    one_size: tuple[str, ...] | None = ()
    """Kinds of networks of which a file serves one image size, as the target's rule for others is
    not ours; None: all."""
    prepare: Callable[[Path, Loaded], Prepare | None] = lambda path, loaded: None
    """The target's own preprocessing, as the file sets it up; None where it has none, or cannot
    do what ours does."""


def _write_safetensors(loaded: Loaded, out: Path) -> None:
    model = replace(loaded.config, pos_size=loaded.built_for)
    data = DataConfig(
        channels=loaded.reading.names,
        channel_files=loaded.reading.files,
        no_data=loaded.reading.no_data,
    )
    config = Config(data=data, model=model, augment=AugmentConfig(global_size=loaded.size))
    tensors = {
        name: t
        for name, t in backbone_tensors(loaded).items()
        if not name.endswith("relative_position_index")
    }
    save_tensors(tensors, out, {"config": json.dumps(to_plain(config)), "format": "pt"})


def _write_published(loaded: Loaded, out: Path) -> None:
    # What no reader can find from the shapes: other readers pass it over.
    settings = told(loaded.config, loaded.built_for, loaded.reading)
    torch.save({"state_dict": backbone_tensors(loaded), "settings": settings}, out)


def _open_ours(path: Path, loaded: Loaded) -> Forward:
    backbone = load_backbone(path)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        output = backbone(images)
        return output.cls, output.patches

    return forward


class _Tokens(nn.Module):
    """A backbone whose outputs are plain tensors, as ONNX wants them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.backbone(images)
        return output.cls, output.patches


def _write_onnx(loaded: Loaded, out: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name)
    network = _Tokens(copy.deepcopy(loaded.backbone)).float().eval()
    with ignored_warnings(FutureWarning):  # of the exporter about itself
        torch.onnx.export(
            network,
            (torch.zeros(2, len(loaded.config.channels), *loaded.size),),
            str(out),
            input_names=["images"],
            output_names=["cls", "patches"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    about = {
        "size": json.dumps(loaded.size),
        "shortest_edge": str(shorter_side(loaded.size)),
        "resample": "bicubic",
        "mean": json.dumps(loaded.config.mean),
        "std": json.dumps(loaded.config.std),
        "channels": json.dumps(loaded.config.channels),
    }
    onnx = library("onnx")
    written = onnx.load(out)
    onnx.helper.set_model_props(written, {f"ibot.{name}": value for name, value in about.items()})
    onnx.save(written, out)


def _open_onnx(path: Path, loaded: Loaded) -> Forward:
    runtime = library("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        cls, patches = session.run(["cls", "patches"], {"images": images.numpy()})
        return torch.from_numpy(cls), torch.from_numpy(patches)

    return forward


KNOWN = "vit", "swin"
"""Kinds that other projects have too."""
TARGETS = {
    "safetensors": Target(_write_safetensors, _open_ours),
    "published": Target(_write_published, _open_ours, kinds=KNOWN),
    "timm": Target(write_timm, open_timm, kinds=KNOWN, one_size=("vit",), prepare=prepare_timm),
    "huggingface": Target(
        write_huggingface,
        open_huggingface,
        kinds=KNOWN,
        one_size=("vit",),
        prepare=prepare_huggingface,
    ),
    "onnx": Target(_write_onnx, _open_onnx, one_size=None),
}
