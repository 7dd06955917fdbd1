"""`ibot pretrain`."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.config.override import apply, later_at_default, to_plain
from ibot.config.resolve import Derived, check, derive, warnings
from ibot.config.schema import Config, ModelConfig
from ibot.errors import DataError, UserError
from ibot.recipes import beyond_paper, recipe
from ibot.types import ResultRecord

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ibot.data.sources import ImageSource


def run(options: argparse.Namespace) -> int:
    """Pre-train, or resume; prints what will be done before and where the results are after."""
    from ibot.engine.processes import launched_processes, said_once

    with said_once():
        config = configure(options)
    folder = Path(options.run_folder) if options.run_folder else default_folder(config)
    from ibot.data.sources import scan
    from ibot.engine.device import choose_device
    from ibot.engine.loop import train
    from ibot.engine.run import RunFolder
    from ibot.engine.watch import from_main

    source = replace(scan(config.data.path), max_pixels=config.data.max_pixels)
    processes = launched_processes()
    derived = derive(config, len(source), processes.world_size)
    command = shlex.join(["ibot", *sys.argv[1:]])
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if processes.is_main and not options.quiet:
            print(text)

    stops_early = derived.run_steps < derived.total_steps
    limit = "" if not stops_early else "--steps" if options.steps == config.train.max_steps else "train.max_steps"
    reached = from_main("step reached", reached_step(folder))
    if reached >= derived.run_steps:
        # Opened all the same, so that other settings, other images and a run in progress are told.
        RunFolder.create(folder, config, command=command, source_info=source.fingerprint(), processes=processes).close()
        why = f"{limit} {config.train.max_steps}" if limit else f"the schedule has {derived.total_steps} steps"
        say(f"already at step {reached}: nothing to do ({why})")
        say_next(folder, reached, derived, limit, say)
        return 0
    describe(config, derived, source, folder, processes.world_size, say)
    evaluate = knn_probe(config, choose_device(config.system.device), say)
    state = train(config, folder, command=command, source=source, evaluate=evaluate, quiet=options.quiet, opening=said)
    if state.step >= derived.run_steps:
        say(f"done: {state.step} steps, {state.images_seen} images. Weights: {folder}")
    say_next(folder, state.step, derived, limit, say)
    return 0


def reached_step(folder: Path) -> int:
    """Step of the last checkpoint of a run; 0 for none, and for a damaged one, which the resumption will name."""
    from ibot.engine.checkpoint import find_checkpoint
    from ibot.weights.files import read_settings

    checkpoint = find_checkpoint(folder)
    return read_settings(checkpoint / "state.json").get("step", 0) if checkpoint else 0


def say_next(folder: Path, step: int, derived: Derived, limit: str, say: Callable[[str], None]) -> None:
    """What can be done with a run that reached `step`: use it, and train on where the schedule has not ended.

    limit: the option that ends the run before its schedule, empty without one.
    """
    if step >= derived.run_steps:
        name = shlex.quote(str(folder))
        say(f"next: ibot eval knn {name} --data DIR    ibot features {name} --data DIR --out FILE")
    left = derived.total_steps - step
    if left > 0:
        how = f"without {limit} " if limit else ""
        say(f"{left} of {derived.total_steps} steps of the schedule are left: the same command {how}goes on")


def configure(options: argparse.Namespace) -> Config:
    """The recipe with the command line's settings; the short flags are other names of settings."""
    short = {
        "data.path": options.data,
        "data.val_path": options.val_data,
        "train.max_steps": options.steps,
        "train.length": None if options.epochs is None else f"{options.epochs:g} epochs",
        "train.seed": options.seed,
        "system.device": options.device,
        "train.init": options.init,
    }
    given = [f"{key}={value}" for key, value in short.items() if value not in (None, "")]
    base = chosen(options) if options.recipe == "auto" else recipe(options.recipe)
    # Of a run's config.json: where one call was to stop is no part of the recipe.
    base = replace(base, train=replace(base.train, max_steps=0))
    config = apply(base, [*given, *options.settings])
    if options.recipe == "adapt" and not config.train.init:
        raise UserError("the recipe adapt goes on from weights", fix="name them with --init WEIGHTS")
    asked, keys = config.model, [text.partition("=")[0].strip() for text in options.settings]
    if config.train.init:
        from ibot.engine.start import with_weights

        config = with_weights(config, keys)
    if config.method.patch_target != "online":
        from ibot.engine.tokenizers import with_tokenizer

        config = with_tokenizer(config)
    if config.train.init:
        from ibot.engine.start import as_started

        folder = Path(options.run_folder) if options.run_folder else older_folder(config, asked)
        config = as_started(config, folder, keys)
    check(config)
    return config


def chosen(options: argparse.Namespace) -> Config:
    """Settings for the data and the device, printed with their reasons."""
    from ibot.data.sources import scan
    from ibot.data.survey import survey
    from ibot.engine.device import choose_device, device_memory
    from ibot.engine.processes import launched_processes
    from ibot.recipes.auto import Facts, choose

    given = apply(recipe("tiny32"), [text for text in options.settings if text.startswith("data.")]).data
    source = replace(scan(options.data), exif_orientation=given.exif_orientation, max_pixels=given.max_pixels)
    processes = launched_processes()
    memory = device_memory(choose_device(options.device or "auto"))
    config, reasons = choose(Facts(survey(source), memory, processes.world_size))
    if not options.quiet and processes.is_main:
        for reason in reasons:
            print(f"auto   {reason}")
    return config


def default_folder(config: Config) -> Path:
    """A folder named after the recipe and a hash of the settings, so that the same command resumes its own run."""
    plain = to_plain(replace(config, train=replace(config.train, max_steps=0)))
    for section in ("system", "log", "checkpoint", "evaluate"):
        plain.pop(section)
    for key, name in later_at_default(config):
        plain.get(key, {}).pop(name, None)
    return Path("runs") / f"{config.recipe or 'run'}-{hashlib.sha256(repr(plain).encode()).hexdigest()[:8]}"


def older_folder(config: Config, asked: ModelConfig) -> Path:
    """Default folder of a run from weights by a version that left these settings of the network to the recipe."""
    left = {name: getattr(asked, name) for name in ("pos_interp", "act", "mean", "std")}
    return default_folder(replace(config, model=replace(config.model, **left)))


def describe(
    config: Config, derived: Derived, source: ImageSource, folder: Path, world_size: int, say: Callable[[str], None]
) -> None:
    """What the run will do, before it starts."""
    train = config.train
    micro = f" x {train.accumulate} micro-batches" if train.accumulate > 1 else ""
    say(f"recipe {config.recipe or '-'}: {config.model}, {config.head.out_dim} prototypes")
    say(f"data   {len(source)} images in {source.root}")
    for note in source.notes:
        say(f"note   {note}")
    say(
        f"run    {derived.run_steps} of {derived.total_steps} steps, {derived.steps_per_epoch} per epoch; "
        f"batch {train.batch} = {world_size} processes x {derived.batch_per_process // train.accumulate}{micro}; "
        f"peak learning rate {derived.lr_actual:.3g}; seed {train.seed}"
    )
    say(f"folder {folder} (the same command resumes it)")
    for note in derived.notes:
        say(f"note   {note}")
    for note in warnings(config):
        say(f"note   {note}")
    extra = beyond_paper(config)
    if extra:
        say("beyond the paper: " + "; ".join(extra))


def knn_probe(
    config: Config, device: torch.device, say: Callable[[str], None]
) -> Callable[[nn.Module, int], list[ResultRecord]] | None:
    """k-NN accuracy of a backbone on the labelled images of the data folder; None without labels.

    Labels that cannot be used are no reason not to train, unless --val-data asked for them.
    """
    from ibot.data.sources import labelled_sets
    from ibot.engine.processes import launched_processes
    from ibot.eval import probe

    try:
        sets = labelled_sets(config.data.path, config.data.val_path)
    except DataError as error:
        if config.data.val_path:
            raise
        say(f"note   no k-NN during training: {error.what}")
        return None
    if sets is None:
        return None
    data = config.data
    train, val = (replace(part, exif_orientation=data.exif_orientation, max_pixels=data.max_pixels) for part in sets)
    for note in val.notes:
        say(f"note   validation: {note}")
    return probe.knn_probe(config, train, val, device, launched_processes())
