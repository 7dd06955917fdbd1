"""The one reader of weights: own runs and checkpoints, the published files, and those of other projects (spec 11).

Nothing is executed on loading: safetensors, or pickles restricted to tensors, containers and plain settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.models.backbone import BackboneModule, build_backbone
from ibot.weights.architecture import model_settings
from ibot.weights.rename import to_ours

log = logging.getLogger("ibot")

OWN_FILES = {"teacher": "teacher.safetensors", "student": "model.safetensors"}
FOREIGN_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of Hugging Face or timm holds beside its config.json."""
FORMATS = "a run folder, .safetensors, and what torch.save writes (.pth, .pt, .bin)"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""How the files of torch.save begin: new ones and old ones."""
_ALLOWING = threading.Lock()
PREFIXES = ("module.", "backbone.")


@dataclass(frozen=True, slots=True)
class Weights:
    """Named tensors of one network and what is known about it."""

    backbone: dict[str, Tensor]
    """In our names (`ibot.weights.rename`)."""
    head: dict[str, Tensor]
    """Projection head, classifier or decoder, in the file's names; empty for files without one."""
    settings: dict[str, Any]
    """Our configuration as plain data, published arguments, or a Hugging Face configuration; empty if there is none."""
    source: str
    layout: str = "published"


@dataclass(frozen=True, slots=True)
class KeyReport:
    """How the tensors of a file fit a backbone."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Parameters of the backbone that the file lacks or holds in another shape; they keep their random start."""
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def listed(names: list[str]) -> str:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            return f"{len(names)}" + (f" ({shown})" if names else "")

        return f"matched {len(self.matched)}, missing {listed(self.missing)}, unused {listed(self.unused)}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A backbone with its weights."""

    backbone: BackboneModule
    config: ModelConfig
    size: tuple[int, int]
    """Height and width of the views with which it was trained: the default of evaluations."""
    report: KeyReport

    @property
    def built_for(self) -> tuple[int, int]:
        """Height and width of the images to which position table or windows belong."""
        return self.config.pos_size or self.size


def load_weights(path: str | Path, key: str = "teacher") -> Weights:
    """Read the weights of a run folder, a checkpoint folder, or a file or folder of another project.

    Args:
        path: what to read.
        key: which network, "teacher" or "student", where there are two.

    Raises:
        WeightsError: absent, damaged or unknown; contents that would run code are refused.
    """
    file = _locate(Path(path), key)
    if file.suffix == ".safetensors":
        tensors, settings = _read_safetensors(file)
    else:
        tensors, settings = _choose(read_pickle(file), key, file)
    if not settings and file.parent.joinpath("config.json").is_file() and file.name in FOREIGN_FILES:
        settings = read_settings(file.parent / "config.json")
    renamed = to_ours({_without_prefixes(name): tensor for name, tensor in tensors.items()})
    return Weights(renamed.backbone, renamed.head, settings, str(file), renamed.layout)


def load_backbone(
    path: str | Path, key: str = "teacher", *, heads: int | None = None, allow_partial: bool = False
) -> BackboneModule:
    """Build the backbone of a weights file and fill it. In evaluation mode, on the CPU.

    Args:
        path: a run, a checkpoint, or weights of iBOT, DINO, DINOv2, MAE, timm or Hugging Face (ViT or Swin).
        key: which network, "teacher" or "student", where there are two.
        heads: attention heads of a ViT, where the file does not say and they are not D / 64 wide.
        allow_partial: accept tensors that are missing (they stay random), unused or of another shape; a log line
            says which.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    return load(path, key, heads=heads, allow_partial=allow_partial).backbone


def load(path: str | Path, key: str = "teacher", *, heads: int | None = None, allow_partial: bool = False) -> Loaded:
    """As `load_backbone`, with the settings found and the report of names."""
    return fit(load_weights(path, key), heads=heads, allow_partial=allow_partial)


def fit(weights: Weights, *, heads: int | None = None, allow_partial: bool = False) -> Loaded:
    """Build the backbone that the tensors belong to, and fill it; see `load_backbone`."""
    embedding = weights.backbone.get("patch_embed.proj.weight")
    if embedding is not None and embedding.ndim == 4 and embedding.shape[1] != 3:
        raise WeightsError(
            f"'{weights.source}' takes images of {embedding.shape[1]} channels",
            why="images are read as 3 channels",
            fix="give weights of a network for RGB images",
        )
    config, size = model_settings(weights.backbone, weights.settings, weights.layout, weights.source, heads)
    with torch.random.fork_rng([]):  # the start that the weights replace is no business of the caller's numbers
        backbone = build_backbone(config, size)
    own = dict(backbone.named_parameters())
    # The mask token serves training only.
    given = {name: tensor for name, tensor in weights.backbone.items() if name != "masked_embed"}
    matched = [name for name in own if name in given and own[name].shape == given[name].shape]
    report = KeyReport(
        matched=matched,
        missing=[_misfit(name, own[name], given.get(name)) for name in own if name not in matched],
        unused=[name for name in given if name not in own],
    )
    if report.missing or report.unused:
        if not allow_partial:
            kind = "Swin" if config.kind == "swin" else "ViT"
            raise WeightsError(
                f"'{weights.source}' does not fit a {kind} of width {config.width}",
                why=str(report),
                fix="give weights of this architecture, or allow a partial fit (--allow-partial)",
            )
        log.warning("%s: %s", weights.source, report)
    with torch.no_grad():
        for name in matched:
            own[name].copy_(given[name])
    return Loaded(backbone.eval(), config, size, report)


def _misfit(name: str, wanted: Tensor, got: Tensor | None) -> str:
    return name if got is None else f"{name} {tuple(got.shape)} for {tuple(wanted.shape)}"


def _locate(path: Path, key: str) -> Path:
    if key not in OWN_FILES:
        raise WeightsError(f"unknown network '{key}'", fix="use teacher or student")
    if path.is_dir():
        last = path / "checkpoints" / "last"
        if last.is_file():
            path = path / "checkpoints" / last.read_text().strip()
        own = (path / "state.json").is_file()
        candidates = [path / OWN_FILES[key]] if own else [path / name for name in (OWN_FILES[key], *FOREIGN_FILES)]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise WeightsError(
                f"'{path}' holds no weights",
                why=f"there is no checkpoints/last and no {OWN_FILES[key]} in it",
                fix="name a run folder, one of its checkpoint folders, or a weights file",
            )
        return file
    if not path.is_file():
        raise WeightsError(f"there is no file or folder '{path}'", fix="check the path")
    if path.parent.name == "checkpoints" and path.name in ("last", "best"):  # text files that name a folder
        return _locate(path.parent / path.read_text().strip(), key)
    if path.suffix == ".onnx":
        raise WeightsError(
            f"'{path}' is an ONNX file, which is written for other programs and not read back",
            fix="name the run or weights from which it was made",
        )
    return path


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            return {name: stored.get_tensor(name) for name in stored.keys()}, json.loads(metadata.get("config", "{}"))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"'{file}' cannot be read", why=str(error), fix="copy the file again") from None


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of settings; an unreadable one is as good as none."""
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def read_pickle(file: Path) -> Any:
    """Everything in a file of torch.save: tensors, containers, numbers, text and `argparse.Namespace`, nothing else.

    Raises WeightsError for a damaged file and for one that holds code, of which nothing is executed.
    """
    allowed = [argparse.Namespace, *_numpy_numbers()]
    try:
        with _allowing(allowed):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what an unpickler makes of bytes that are no pickle is not documented
        raise _unreadable(file, error) from None
    return content


@contextmanager
def _allowing(types: list[Any]) -> Iterator[None]:
    """Torch's unpickler knows `types` inside; its list belongs to the process, one thread changes it at a time."""
    with _ALLOWING:
        known = torch.serialization.get_safe_globals()  # what a caller allowed stays so
        with torch.serialization.safe_globals([name for name in types if name not in known]):
            yield


def _numpy_numbers() -> list[Any]:
    """What a restricted unpickler needs for numpy numbers: published checkpoints keep learning rates as such."""
    scalar = np.float64(0).__reduce__()[0]  # the public way to a private function
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since numpy 2
    types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32")]
    return [*((scalar, name) for name in names), np.dtype, *types]


def _unreadable(file: Path, error: Exception) -> WeightsError:
    """What is wrong with a file that torch cannot read; its own words advise to let the file run code."""
    if isinstance(error, OSError):
        return WeightsError(f"'{file}' cannot be read", why=error.strerror or str(error), fix="check its permissions")
    with file.open("rb") as stream:
        start = stream.read(4)
    other = ""
    if not start:
        other = "it is empty"
    elif start == ZIP:
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                other = "it is a zip archive that torch.save did not write"
    elif start[:1] != PICKLE:
        other = "it is neither a zip archive nor a pickle, as torch.save writes them"
    if other:
        return WeightsError(f"'{file}' is no weights file", why=other, fix=f"known are {FORMATS}")
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", str(error))
        return WeightsError(
            f"'{file}' is refused",
            why="it holds more than tensors and settings" + (f": {named[1]}" if named else ""),
            fix="do not load it, or ask its author for a safetensors file",
        )
    words = str(error).strip().splitlines()
    why = words[0][:200] if words else f"it is cut off ({type(error).__name__})"
    return WeightsError(f"'{file}' cannot be read", why=why, fix="copy the file again")


def _choose(content: Any, key: str, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The named network of a checkpoint, else `state_dict`, else `model` (MAE, Swin), else the dictionary itself."""
    if not isinstance(content, dict):
        raise WeightsError(f"'{file}' holds a {type(content).__name__}, not named tensors")
    arguments = content.get("args")
    settings = vars(arguments) if isinstance(arguments, argparse.Namespace) else content.get("settings", {})
    for name in (key, "state_dict", "model"):
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
