"""The published trainer's full checkpoints, in and out of a run folder (spec 11.1)."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ibot
from ibot.config.override import apply
from ibot.config.reading import RGB
from ibot.config.resolve import check, derive
from ibot.config.schema import Config
from ibot.engine.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from ibot.engine.optimizer import build_optimizer
from ibot.engine.run import RunFolder, read_config
from ibot.errors import WeightsError
from ibot.method.model import StudentTeacher
from ibot.system.files import write_atomically
from ibot.system.processes import Processes
from ibot.types import RunState
from ibot.weights.architecture import recognise_network
from ibot.weights.arguments import arguments_of, config_of
from ibot.weights.export import create_parents, remove
from ibot.weights.files import read_pickle
from ibot.weights.networks import INSIDE
from ibot.weights.read import KeyReport, arguments_in, refuse_bad_numbers, say_guesses
from ibot.weights.rename import to_ours
from ibot.weights.said import understood

IMAGENET_IMAGES = 1_281_167
MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq", "step"), "sgd": ("momentum_buffer",), "lars": ("mu",)}


def is_full_checkpoint(content: Any) -> bool:
    """Whether a loaded file is a full checkpoint of the published trainer."""
    return isinstance(content, dict) and {"student", "teacher", "optimizer", "ibot_loss"} <= set(
        content
    )


def convert_checkpoint(
    file: Path,
    run_path: Path,
    *,
    settings: Sequence[str] = (),
    images: int | None = None,
    command: str = "",
) -> tuple[Config, RunState, dict[str, KeyReport]]:
    """Make a run folder of a published full checkpoint, from which training goes on.

    Args:
        file: the checkpoint.
        run_path: a new or empty folder.
        settings: `section.key=value` over what the embedded arguments say (`model.heads` where they
            do not say it).
        images: size of the training set; gives the step from the number of finished epochs. The
            file does not hold it: without it ImageNet's is assumed, and the run folder says so.
        command: recorded in the run folder.

    Returns:
        The settings, where training goes on, and how the names of each network fit.

    Raises:
        WeightsError: damaged, no full checkpoint, or tensors that do not fit the settings.
    """
    content = _full_checkpoint(file)
    student, teacher = (_without_module(content[name]) for name in ("student", "teacher"))
    config = apply(_told_by(file, content, student, settings), settings)
    check(config)
    networks = StudentTeacher(config)
    reports = {
        name: _fill(getattr(networks, name), tensors, f"{file}: {name}")
        for name, tensors in (("student", student), ("teacher", teacher))
    }
    for center, name in ((networks.cls_center, "center"), (networks.patch_center, "center2")):
        center.value.copy_(content["ibot_loss"][name].flatten())
    optimizer = build_optimizer(networks.student, config.optim)
    optimizer.load_state_dict(_optimizer_state(content["optimizer"], optimizer, config, file))
    epoch = int(content.get("epoch", 0))
    counted = IMAGENET_IMAGES if images is None else images
    step = epoch * derive(config, counted).steps_per_epoch
    versions = {"ibot": ibot.__version__, "torch": torch.__version__}
    state = RunState(step, step * config.train.batch, epoch, versions=versions)
    source = {"converted_from": str(file), "images": counted, "images_assumed": images is None}
    folder = RunFolder.create(
        run_path, config, command=command, source_info=source, processes=Processes()
    )
    try:
        save_checkpoint(folder.path, networks, optimizer, state, config=config)
    finally:
        folder.close()
    return config, state, reports


def _full_checkpoint(file: Path) -> dict[str, Any]:
    """Content of a full checkpoint. Raises WeightsError for any other file."""
    content = read_pickle(file)
    if not is_full_checkpoint(content):
        raise WeightsError(
            f"'{file}' is no full checkpoint",
            why="it lacks one of student, teacher, optimizer, ibot_loss",
            fix="ibot weights inspect says what it holds",
        )
    return content


def _told_by(
    file: Path, content: dict[str, Any], student: Mapping[str, Tensor], settings: Sequence[str]
) -> Config:
    """Settings by the embedded arguments and the student's tensors.

    Of what had to be guessed it says what `settings` do not give.
    """
    arguments = arguments_in(content)
    backbone = to_ours(_below("backbone.", student)).backbone
    embedding = backbone.get("patch_embed.proj.weight")
    width, channels = (0, len(RGB)) if embedding is None else tuple(embedding.shape[:2])
    said = understood(arguments, {}, "student", "published", width, str(file), channels)
    found = recognise_network(backbone, arguments, said, "published", str(file))
    known = any(setting.partition("=")[0] == "model.heads" for setting in settings)
    guesses = [text for text in found.guesses if not (known and text.startswith("heads:"))]
    say_guesses(file, guesses)
    head = {name: tensor for name, tensor in student.items() if name.startswith("head.")}
    config = config_of(arguments, found.config, found.size, head)
    reading = found.reading
    data = replace(
        config.data,
        channels=reading.names,
        channel_files=reading.files,
        no_data=reading.no_data,
        pixels="exact",  # as the published loader makes them
    )
    return replace(config, data=data)


def export_checkpoint(run: Path, out: Path) -> Config:
    """Write a run's last checkpoint as the published trainer would: the way back.

    Missing folders above `out` are created. Returns the settings of the run: the file has those
    alone for which there is a published flag. Raises WeightsError for a folder without a
    checkpoint, UserError where `out` cannot be written.
    """
    checkpoint = find_checkpoint(run)
    if checkpoint is None:
        raise WeightsError(f"'{run}' holds no checkpoint", fix="name the folder of a run")
    config = read_config(run)
    networks = StudentTeacher(config)
    optimizer = build_optimizer(networks.student, config.optim)
    state = load_checkpoint(checkpoint, networks, optimizer)
    student, teacher = _published_names(networks.student), _published_names(networks.teacher)
    for name, tensors in (("student", student), ("teacher", teacher)):
        refuse_bad_numbers(f"{run}: {name}", tensors, tensors)
    provenance = json.loads((run / "provenance.json").read_text())
    derived = derive(config, provenance.get("data", {}).get("images", IMAGENET_IMAGES))
    content = {
        "student": OrderedDict((f"module.{name}", tensor) for name, tensor in student.items()),
        "teacher": OrderedDict(teacher),
        "optimizer": optimizer.state_dict(),
        "epoch": state.epoch,
        "args": arguments_of(config, derived.steps_per_epoch, derived.total_steps),
        "ibot_loss": OrderedDict(
            center=networks.cls_center.value[None], center2=networks.patch_center.value[None, None]
        ),
    }
    created = create_parents(out)
    try:
        write_atomically(out, lambda path: torch.save(content, path))
    except BaseException:
        remove(out, created)
        raise
    return config


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> KeyReport:
    """Copy every tensor of one network; all must fit."""
    own = network.state_dict()
    # A shared head stores its one last layer under both names (spec 4.3).
    duplicates = {name for name in tensors if name not in own and _is_duplicate(name, tensors)}
    given = {name: tensor for name, tensor in tensors.items() if name not in duplicates}
    report = KeyReport(
        matched=[name for name in own if name in given and own[name].shape == given[name].shape],
        missing=[name for name in own if name not in given or own[name].shape != given[name].shape],
        unused=[name for name in given if name not in own],
    )
    if report.missing or report.unused:
        raise WeightsError(
            f"'{source}' does not fit its own settings",
            why=str(report),
            fix="name the sizes that the arguments do not tell, for example head.hidden_dim=2048",
        )
    refuse_bad_numbers(source, given, own)
    network.load_state_dict(given)
    return report


def _is_duplicate(name: str, tensors: Mapping[str, Tensor]) -> bool:
    first = _first_of(name, tensors)
    return first is not None and first in tensors and torch.equal(tensors[name], tensors[first])


def _first_of(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """The class layer's name for a name of the patch layer."""
    if name.startswith("head.last_layer2."):
        return name.replace("last_layer2", "last_layer")
    if name.startswith("head.mlp2."):
        places = [
            int(other.split(".")[2])
            for other in tensors
            if other.startswith("head.mlp.") and other.count(".") > 2
        ]
        return name.replace("mlp2", f"mlp.{max(places)}") if places else None
    return None


def _published_names(network: nn.Module) -> dict[str, Tensor]:
    """State of a network with the duplicates that the published code stores for a shared head."""
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for layer, second in (("last_layer", "last_layer2"), ("mlp", "mlp2")):
        names = [name for name in state if name.startswith(f"head.{layer}.")]
        if layer == "mlp":
            if any(name.startswith("head.last_layer.") for name in state) or not names:
                continue
            last = max(int(name.split(".")[2]) for name in names)
            layer = f"mlp.{last}"
            names = [name for name in names if name.startswith(f"head.{layer}.")]
        for name in names:
            state.setdefault(name.replace(f"head.{layer}.", f"head.{second}."), state[name])
    return state


def _optimizer_state(
    stored: dict[str, Any], own: torch.optim.Optimizer, config: Config, file: Path
) -> dict[str, Any]:
    """Moments under our parameter groups; both number their parameters alike (spec 6.3)."""
    wanted = own.state_dict()
    sizes = [
        [len(group["params"]) for group in groups["param_groups"]] for groups in (stored, wanted)
    ]
    if sizes[0] != sizes[1]:
        raise WeightsError(
            f"the optimizer of '{file}' has {sizes[0]} parameters in its groups, not {sizes[1]}"
        )
    kept = MOMENTS[config.optim.name]
    state = {
        index: {
            name: torch.as_tensor(value, dtype=torch.float32)
            for name, value in entry.items()
            if name in kept
        }
        for index, entry in stored["state"].items()
    }
    return {"state": state, "param_groups": wanted["param_groups"]}


def _without_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DistributedDataParallel and torch.compile put before and into them."""
    return {
        INSIDE.sub("", name).removeprefix("module."): tensor for name, tensor in tensors.items()
    }


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
