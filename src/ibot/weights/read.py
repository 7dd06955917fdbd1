"""The one reader of weights: of own runs, published files, other projects (spec 11)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibot.config.override import from_plain
from ibot.config.reading import PICTURES, RGB, Channels
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError, printable
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone
from ibot.weights.architecture import foreign, recognise_network
from ibot.weights.files import FOREIGN_FILES, Content, is_configuration, read_content
from ibot.weights.forms import is_published
from ibot.weights.networks import choose_network, find_networks
from ibot.weights.rename import to_ours
from ibot.weights.said import other_network, understood
from ibot.words import sides

log = logging.getLogger("ibot")

NEVER_RANDOM = ("pos_embed", "relative_position_bias_table")
"""Ends of names of tensors without which the others mean nothing, however partial a fit is
allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Named tensors of one network and what is known about it."""

    backbone: dict[str, Tensor]
    """In our names (`ibot.weights.rename`)."""
    head: dict[str, Tensor]
    """What stands beside it (projection head, classifier, decoder), in the file's names."""
    settings: dict[str, Any]
    """Our configuration as plain data, published arguments, or a configuration of another project,
    with that of its images under "preprocessor"; empty if there is none."""
    source: str
    layout: str = "published"
    place: str = ""
    """Where in the file it was; see `ibot.weights.networks`."""
    notes: tuple[str, ...] = ()
    """In words, what else the file holds that might have been meant."""
    step: int | None = None
    """Of the training, where a checkpoint of ours says it."""


@dataclass(frozen=True, slots=True)
class KeyReport:
    """How the tensors of a file fit a backbone."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Parameters of the backbone that the file lacks or holds in another shape; they keep their
    random start."""
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def listed(names: list[str]) -> str:
            return f"{len(names)}" + (f" ({_few(names)})" if names else "")

        return (
            f"matched {len(self.matched)}, missing {listed(self.missing)}, unused "
            f"{listed(self.unused)}"
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """A backbone with its weights."""

    backbone: Backbone
    config: ModelConfig
    """Its mean, deviation, activation and rule of resampling are those of the file."""
    size: tuple[int, int]
    """Height and width of the views with which it was trained: the default of evaluations."""
    report: KeyReport
    guesses: tuple[str, ...] = ()
    """In words, what the file does not say and what is assumed."""
    notes: tuple[str, ...] = ()
    """In words, what else the file holds."""
    reading: Channels = PICTURES
    """How images for it are opened: its channels by their names, from files as in its training."""
    step: int | None = None
    """Of the training, where a checkpoint of ours says it."""

    @property
    def built_for(self) -> tuple[int, int]:
        """Height and width of the images to which position table or windows belong."""
        return self.config.pos_size or self.size


def load_weights(path: str | Path, key: str = "teacher") -> Weights:
    """Read the weights of a run, a checkpoint, or a file or folder of another project.

    Args:
        path: what to read, or a name (`ibot.weights.named`).
        key: which network, where there are several: "teacher", "student", or what `ibot weights
            inspect` names.

    Raises:
        WeightsError: absent, damaged or unknown; contents that would run code are refused.
    """
    return weights_of(read_content(path, key), key)


def load_both(path: str | Path) -> tuple[Weights, Weights]:
    """Student and teacher; one network stands for both if it is alone. Raises WeightsError."""
    contents = {key: read_content(path, key) for key in ("student", "teacher")}
    roles = {
        key: {network.role for network in find_networks(content.tree)}
        for key, content in contents.items()
    }
    student = "teacher" if roles["student"] == {"teacher"} else "student"
    teacher = "student" if roles["teacher"] == {"student"} else "teacher"
    return weights_of(contents["student"], student), weights_of(contents["teacher"], teacher)


def weights_of(content: Content, key: str) -> Weights:
    """The network that `key` means, in our names. Raises WeightsError."""
    network = choose_network(content, key)
    notes = []
    helpers = [other.place for other in find_networks(content.tree) if other.role == "momentum"]
    if not network.role and helpers:
        notes.append(f"'{network.place}' is read, not '{helpers[0]}' (--key)")
    if content.foreign:
        notes.append(f"passed over, and not run: {_few(list(content.foreign))}")
    renamed = to_ours(network.tensors)
    # Under a name that such folders have, settings and tensors are one; under another a stranger's
    # may lie there.
    one = content.file.name in FOREIGN_FILES or not content.beside
    if not one and (other := other_network(content.beside, renamed.backbone, renamed.layout)):
        notes.append(
            f"what config.json and preprocessor_config.json beside it say is passed over: {other}"
        )
        content = replace(content, beside={})
    return Weights(
        backbone=renamed.backbone,
        head={**network.others, **renamed.head},
        settings=_settings(content),
        source=str(content.file),
        layout=renamed.layout,
        place=network.place,
        notes=tuple(notes),
        step=content.step,
    )


def _settings(content: Content) -> dict[str, Any]:
    """What the file says, else what stands beside it."""
    tree = content.tree if isinstance(content.tree, Mapping) else {}
    own = tree.get("settings")
    # What our own exports hold; the first ones said their heads alone.
    if isinstance(own, dict) and (
        own.get("project") == "ours" or set(own) == {"num_attention_heads"}
    ):
        inside = {"project": "ours", **own}
    else:
        inside = arguments_in(tree)
    if isinstance(tree.get("arch"), str):
        # MoCo v3 has it beside its tensors, iBOT and DINO among their arguments.
        inside = {
            **inside,
            "arch": tree["arch"],
            **({} if inside else {"arch_beside": tree["arch"]}),
        }
    others = {**content.beside, **inside}
    others.pop("augment", None)  # our configuration is known by it, which stands elsewhere
    return {**content.settings, **others}


def arguments_in(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a trainer embeds in its checkpoints, by name; empty if none."""
    arguments = tree.get("args", {})
    return arguments if isinstance(arguments, dict) else dict(getattr(arguments, "__dict__", {}))


def reading_of(weights: Weights) -> Channels:
    """How images for a network are opened; see `Loaded.reading`. Raises WeightsError."""
    if not is_configuration(weights.settings):
        return fit(weights).reading
    config = from_plain(dict(weights.settings))
    return config.data.reading.of(config.model.channels, config.model.mean)


def load_backbone(
    path: str | Path, key: str = "teacher", *, heads: int | None = None, allow_partial: bool = False
) -> Backbone:
    """Build the backbone of a weights file and fill it. In evaluation mode, on the CPU.

    Its images are to be normalised by its `statistics`, as `ibot.extract_features` does.

    Args:
        path: a run, a checkpoint, or weights of another project: a ViT or Swin of iBOT, DINO,
            DINOv2, MAE, MoCo v3, SimMIM, timm, torchvision, Hugging Face, or one that a training
            framework has wrapped. Or a name: "hf:OWNER/NAME", "timm:NAME", "ibot:vit_s16", whose
            file is downloaded where it is not here.
        key: which network, where there are several: "teacher", "student", or a part of the names.
        heads: attention heads of a ViT, where the file does not say.
        allow_partial: accept tensors that are missing (they stay random), unused or of another
            shape; a log line says which.

    Raises:
        WeightsError: the file cannot be read, does not fit, or holds NaN or infinity.
    """
    return load(path, key, heads=heads, allow_partial=allow_partial).backbone


def load(
    path: str | Path, key: str = "teacher", *, heads: int | None = None, allow_partial: bool = False
) -> Loaded:
    """As `load_backbone`, with settings and report of names; says what had to be guessed."""
    loaded = fit(load_weights(path, key), heads=heads, allow_partial=allow_partial)
    say_guesses(path, loaded.guesses, loaded.notes)
    return loaded


def say_guesses(path: str | Path, guesses: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Tell what else the file holds (`notes`), and in one line what it does not say.

    Of the published files by name that is known: what is guessed of any file is what they are.
    """
    for note in notes:
        log.warning("%s: %s", path, printable(note))
    if guesses and not is_published(path):
        log.warning("%s does not say all; guessed: %s", path, "; ".join(guesses))


def fit(weights: Weights, *, heads: int | None = None, allow_partial: bool = False) -> Loaded:
    """Build the backbone that the tensors belong to, and fill it; see `load_backbone`."""
    embedding = weights.backbone.get("patch_embed.proj.weight")
    width = embedding.shape[0] if embedding is not None and embedding.ndim else 0
    count = embedding.shape[1] if embedding is not None and embedding.ndim == 4 else len(RGB)
    said = understood(
        weights.settings,
        weights.head,
        weights.place,
        weights.layout,
        width,
        weights.source,
        count,
    )
    network = recognise_network(
        weights.backbone, weights.settings, said, weights.layout, weights.source, heads
    )
    # The start that the weights replace is no business of the caller's random numbers.
    with torch.random.fork_rng([]):
        backbone = build_backbone(network.config, network.size)
    own = dict(backbone.named_parameters())
    # The mask token serves training only.
    given = {name: tensor for name, tensor in network.tensors.items() if name != "masked_embed"}
    report = _report(own, given)
    if report.missing or report.unused:
        _check_partial(weights.source, network.config, given, report, allow_partial)
    refuse_bad_numbers(weights.source, {name: given[name] for name in report.matched})
    with torch.no_grad():
        for name in report.matched:
            own[name].copy_(given[name])
    config = network.config
    return Loaded(
        backbone.eval(),
        config,
        network.size,
        report,
        network.guesses,
        weights.notes,
        network.reading.of(config.channels, config.mean),
        weights.step,
    )


def _report(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> KeyReport:
    matched = [name for name in own if name in given and own[name].shape == given[name].shape]
    return KeyReport(
        matched=matched,
        missing=[_misfit(name, own[name], given.get(name)) for name in own if name not in matched],
        unused=[name for name in given if name not in own],
    )


def _misfit(name: str, wanted: Tensor, got: Tensor | None) -> str:
    return name if got is None else f"{name} {sides(got.shape)} for {sides(wanted.shape)}"


def _check_partial(
    source: str, config: ModelConfig, given: Mapping[str, Tensor], report: KeyReport, allowed: bool
) -> None:
    """Refuse what does not fit, unless that is allowed and the rest can still be used."""
    kind = config.family
    why = "; ".join(part for part in (str(report), foreign(given)) if part)
    lost = [name for name in report.missing if name.split(" ")[0].endswith(NEVER_RANDOM)]
    if lost or not allowed:
        partial = (
            "or allow a partial fit: --allow-partial (to train from it, after `ibot weights "
            "convert`)"
        )
        raise WeightsError(
            f"'{source}' does not fit a {kind} of width {config.width}",
            why=f"positions would be random: {lost[0]}" if lost and allowed else why,
            fix=f"give weights of this architecture{'' if lost else ', ' + partial}",
        )
    log.warning("%s: %s", source, report)


def refuse_bad_numbers(
    source: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor] | None = None
) -> None:
    """Raise WeightsError naming tensors with NaN, infinity (in float32) or no real numbers.

    own: tensors of the network that will hold them; where those are integers (counters) these may
    be.
    """
    counters = {name for name, tensor in (own or {}).items() if not tensor.is_floating_point()}
    wrong = bad_numbers({name: tensor for name, tensor in tensors.items() if name not in counters})
    if wrong:
        raise WeightsError(
            f"'{source}' holds tensors that cannot be used",
            why=f"{len(wrong)} of {len(tensors)}: "
            + ", ".join(f"{name} ({what})" for name, what in list(wrong.items())[:3]),
            fix="use other weights, or an earlier checkpoint: `ibot weights inspect` lists them",
        )


def bad_numbers(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What is wrong with the numbers of tensors, by name; those that are fine are left out."""
    wrong = {name: _wrong(tensor) for name, tensor in tensors.items()}
    return {name: words for name, words in wrong.items() if words}


def _wrong(tensor: Tensor) -> str:
    if not tensor.is_floating_point():
        return f"{str(tensor.dtype).removeprefix('torch.')}, no real numbers"
    numbers = tensor.float()
    if bool(numbers.isnan().any()):
        return "NaN"
    return "" if bool(numbers.isfinite().all()) else "infinity"


def _few(names: list[str]) -> str:
    return printable(", ".join(names[:3]) + (", ..." if len(names) > 3 else ""))
