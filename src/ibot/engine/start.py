"""Starting a run from weights instead of random numbers (`--init`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ibot.config.duration import duration
from ibot.config.override import show
from ibot.config.schema import Config
from ibot.engine.checkpoint import FIRST_DRAWS, draws_of, find_checkpoint
from ibot.engine.run import read_config
from ibot.errors import ConfigError, WeightsError
from ibot.kernels.choice import Mode
from ibot.method.model import StudentTeacher
from ibot.models.contract import Backbone
from ibot.system.files import read_state
from ibot.weights.arguments import head_config
from ibot.weights.channels import EMBEDDING, fitting_embedding, told_embedding
from ibot.weights.files import is_pickle, locate, read_pickle
from ibot.weights.named import located
from ibot.weights.read import (
    Loaded,
    Weights,
    fit,
    load_both,
    refuse_bad_numbers,
    say_guesses,
)
from ibot.words import sides

log = logging.getLogger("ibot")

HEAD_WARMUP = "1 epochs"
"""How long the backbone is frozen while a new head learns, unless the settings say."""
CHOSEN_BY_USER = (
    "model.drop_path",
    "model.pos_interp",
    "model.heads",
    "model.channels",
    "model.mean",
    "model.std",
)
"""Settings of the network that the weights do not fix; but for the first one what the file says
serves unless the user says otherwise."""
READ_BEYOND_SHAPES = ("heads", "norm_eps", "pos_interp", "act", "mean", "std")
"""Settings of the network that its file says or leaves to be guessed, of which a later version
may read more."""


def with_weights(config: Config, given: Iterable[str]) -> Config:
    """Settings for a run from `config.train.init`, whose network, crop sizes and head they take.

    Args:
        config: the recipe with the user's settings; `train.init` names the weights.
        given: keys that the user set; they win, but for the network's own sizes.

    Raises:
        WeightsError: the weights cannot be read or are no whole backbone.
        ConfigError: a size of the network was set.
    """
    keys = set(given)
    sizes = sorted(key for key in keys if key.startswith("model.") and key not in CHOSEN_BY_USER)
    if sizes:
        raise ConfigError(f"{sizes[0]} is fixed by the weights of --init", fix="leave it out")
    _, weights = load_both(config.train.init)
    loaded = fit(weights, heads=config.model.heads if "model.heads" in keys else None)
    say_guesses(config.train.init, loaded.guesses, loaded.notes)
    said = [name for name in ("pos_interp", "mean", "std") if f"model.{name}" in keys]
    chosen = ["drop_path", *said]
    # Of images with other channels than the weights' these are not theirs to say: whoever opens the
    # images does.
    if "model.channels" in keys:
        chosen = [*chosen, "channels", "mean", "std"]
    model = replace(loaded.config, **{name: getattr(config.model, name) for name in chosen})
    if model.channels == loaded.config.channels and model.statistics != loaded.config.statistics:
        mean, std = loaded.config.statistics
        log.warning(
            "%s was trained with mean %s and deviation %s, not with those that are set",
            config.train.init,
            show(mean),
            show(std),
        )
    augment = config.augment
    if "augment.global_size" not in keys:
        local = [
            _multiple(side * loaded.size[0] / augment.global_size[0], model.patch)
            for side in augment.local_size
        ]
        augment = replace(augment, global_size=loaded.size)
        if "augment.local_size" not in keys:
            augment = replace(augment, local_size=(local[0], local[1]))
    head = head_config(weights)
    if head is not None and not any(key.startswith("head.") for key in keys):
        return replace(config, model=model, augment=augment, head=head)
    train = config.train
    if "train.head_warmup" not in keys:
        train = replace(train, head_warmup=duration(HEAD_WARMUP))
    return replace(config, model=model, augment=augment, train=train)


def as_started(config: Config, run: Path, given: Iterable[str]) -> Config:
    """Settings of `with_weights` as the run in this folder, if it started from the same weights,
    once read them.

    Older versions read less from some files; their runs go on as they began. What the user gave
    (`given`) wins.
    """
    if not (run / "config.json").is_file():
        return config
    started, keys = read_config(run), set(given)
    if started.train.init != config.train.init:
        return config
    # Mean and deviation of other channels than the weights' came from the images.
    same = started.model.channels == config.model.channels
    kept = {
        name: getattr(started.model, name)
        for name in READ_BEYOND_SHAPES
        if f"model.{name}" not in keys and (same or name not in ("mean", "std"))
    }
    return replace(config, model=replace(config.model, **kept))


def with_pixels(config: Config, device: torch.device, run: Path | None = None) -> Config:
    """Settings whose `data.pixels` is resolved: as the run in this folder began, wherever it goes
    on, else made by the device on a GPU and fast on others.
    """
    pixels = config.data.pixels
    if pixels == "auto" and run is not None and (run / "config.json").is_file():
        pixels = read_config(run).data.pixels
    if pixels == "auto":
        pixels = "device" if device.type == "cuda" else "fast"
    return replace(config, data=replace(config.data, pixels=pixels))


def kernels_of(config: Config, run: Path) -> tuple[Mode, str]:
    """`system.kernels` of the run in this folder, and in words why where it is not what is set.

    Runs of the first draws began before there were fast paths. Left to auto they end as they would
    have ended, bit by bit.
    """
    asked = config.system.kernels
    if asked == "auto" and draws_of(run) == FIRST_DRAWS:
        return "reference", "with which this run began; system.kernels=require takes fast ones"
    return asked, ""


@torch.no_grad()
def start_from_weights(model: StudentTeacher, config: Config) -> str:
    """Fill student and teacher from `config.train.init`; returns in words what was taken.

    A file with one network fills both. Heads and centers are taken where they fit, else they start
    at random.
    """
    path, taken = config.train.init, []
    student, teacher = load_both(path)
    embedding = ""
    for network, weights in ((model.teacher, teacher), (model.student, student)):
        loaded = fit(weights, heads=config.model.heads if config.model.kind == "vit" else None)
        copy_backbone(network.backbone, loaded, weights)
        embedding = told_embedding(loaded.config.channels, config.model.channels)
    taken.append(f"backbone ({embedding})" if embedding else "backbone")
    if (
        config.train.head_warmup.value == 0
        and _fits(model.student.head, student)
        and _fits(model.teacher.head, teacher)
    ):
        for network, weights in ((model.student, student), (model.teacher, teacher)):
            tensors = head_tensors(network.head, weights)
            refuse_bad_numbers(weights.source, tensors, network.head.state_dict())
            network.head.load_state_dict(tensors)
        taken.append("head")
        if _copy_centers(model, Path(path)):
            taken.append("centers")
    return " and ".join(taken)


@torch.no_grad()
def copy_backbone(backbone: Backbone, loaded: Loaded, weights: Weights) -> None:
    """Copy every parameter of a read backbone, its patch embedding as the channels want it.

    Raises WeightsError for one of another shape.
    """
    source: dict[str, Tensor] = dict(loaded.backbone.named_parameters())
    if EMBEDDING in source:
        kernels, wanted = source[EMBEDDING].detach(), backbone.channels
        source[EMBEDDING] = fitting_embedding(kernels, loaded.backbone.channels, wanted)
    for name, p in backbone.named_parameters():
        if name in source:
            if p.shape != source[name].shape:
                raise WeightsError(
                    f"'{weights.source}' holds {name} as {sides(source[name].shape)}, not "
                    f"{sides(p.shape)}"
                )
            p.copy_(source[name])
        elif name == "masked_embed" and name in weights.backbone:
            refuse_bad_numbers(weights.source, {name: weights.backbone[name]})
            p.copy_(weights.backbone[name])


def _fits(head: nn.Module, weights: Weights) -> bool:
    tensors = head_tensors(head, weights)
    return all(
        name in tensors and tensors[name].shape == own.shape
        for name, own in head.state_dict().items()
    )


def head_tensors(head: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """The tensors of a file that this head has, in its own names."""
    names = head.state_dict()
    return {name: weights.head[f"head.{name}"] for name in names if f"head.{name}" in weights.head}


def _copy_centers(model: StudentTeacher, path: Path) -> bool:
    centers = _centers(path)
    if centers:
        model.cls_center.value.copy_(centers["cls"])
        model.patch_center.value.copy_(centers["patch"])
    return bool(centers)


def patch_center(path: Path) -> Tensor | None:
    """The center of the patch logits [K'] beside weights, if any. Raises WeightsError for NaN."""
    return _centers(path).get("patch")


def _centers(path: Path) -> dict[str, Tensor]:
    """As `_stored_centers`. Raises WeightsError for NaN and infinity."""
    centers = _stored_centers(path)
    refuse_bad_numbers(str(path), centers)
    return centers


def _stored_centers(path: Path) -> dict[str, Tensor]:
    """Centers beside the weights of a checkpoint of ours, or in a published one; none elsewhere."""
    path = located(path)
    file = locate(path, "teacher") if path.is_file() else path
    if file.is_file() and is_pickle(file):
        stored = read_pickle(file)
        loss = stored.get("ibot_loss", {}) if isinstance(stored, dict) else {}
        if "center2" not in loss:
            return {}
        return {"cls": loss["center"].flatten(), "patch": loss["center2"].flatten()}
    # `last` names a folder
    folder = find_checkpoint(path) or (path if file == path else file.parent)
    file = folder / "training.pt"
    return read_state(file, folder)["centers"] if file.is_file() else {}


def _multiple(size: float, patch: int) -> int:
    return max(patch, round(size / patch) * patch)
