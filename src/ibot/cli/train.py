"""`ibot pretrain`."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.config.override import apply, later_at_default, to_plain
from ibot.config.resolve import Derived, check, derive, warnings
from ibot.config.schema import Config, DataConfig, ModelConfig
from ibot.errors import DataError, UserError
from ibot.recipes import beyond_paper, recipe
from ibot.system.processes import launched_processes, said_once
from ibot.types import ResultRecord
from ibot.words import counted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ibot.data.sets.images import Images


def run(options: argparse.Namespace) -> int:
    """Pre-train, or resume; prints what will be done before and where the results are after."""
    processes = launched_processes()
    config, source, notes = prepare(options, processes.world_size)
    folder = Path(options.run_folder) if options.run_folder else default_folder(config)
    from ibot.engine.loop import train
    from ibot.engine.run import RunFolder
    from ibot.system.device import choose_device
    from ibot.system.watch import from_main

    derived = derive(config, len(source), processes.world_size)
    command = shlex.join(["ibot", *sys.argv[1:]])
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if processes.is_main and not options.quiet:
            print(text)

    stops_early = derived.run_steps < derived.total_steps
    limit = (
        ""
        if not stops_early
        else "--steps"
        if options.steps == config.train.max_steps
        else "train.max_steps"
    )
    reached = from_main("step reached", reached_step(folder))
    if reached >= derived.run_steps:
        # Opened all the same, so that other settings, other images and a run in progress are told.
        RunFolder.create(
            folder, config, command=command, source_info=source.provenance(), processes=processes
        ).close()
        whole = f"the schedule has {counted(derived.total_steps, 'step')}"
        say(
            f"already at step {reached}: nothing to do "
            f"({f'{limit} {config.train.max_steps}' if limit else whole})"
        )
        say_next(folder, reached, derived, limit, say)
        return 0
    describe(config, derived, source, folder, processes.world_size, say)
    for note in notes:
        say(f"note   {note}")
    evaluate = knn_probe(config, choose_device(config.system.device), say)
    state = train(
        config,
        folder,
        command=command,
        source=source,
        evaluate=evaluate,
        quiet=options.quiet,
        opening=said,
    )
    if state.step >= derived.run_steps:
        say(
            f"done: {counted(state.step, 'step')}, {counted(state.images_seen, 'image')}. "
            f"Weights: {folder}"
        )
    say_next(folder, state.step, derived, limit, say)
    return 0


def reached_step(folder: Path) -> int:
    """Step of the last checkpoint of a run; 0 for none, and for a damaged one, which the resumption
    will name.
    """
    from ibot.engine.checkpoint import find_checkpoint
    from ibot.weights.files import read_settings

    checkpoint = find_checkpoint(folder)
    return read_settings(checkpoint / "state.json").get("step", 0) if checkpoint else 0


def say_next(
    folder: Path, step: int, derived: Derived, limit: str, say: Callable[[str], None]
) -> None:
    """What can be done with a run that reached `step`: use it, and train on where the schedule has
    not ended.

    limit: the option that ends the run before its schedule, empty without one.
    """
    if step >= derived.run_steps:
        name = shlex.quote(str(folder))
        say(f"next: ibot eval knn {name} --data DIR    ibot features {name} --data DIR --out FILE")
    left = derived.total_steps - step
    if left > 0:
        how = f"without {limit} " if limit else ""
        say(
            f"{left} of {counted(derived.total_steps, 'step')} of the schedule are left: the same "
            f"command {how}goes on"
        )


def prepare(options: argparse.Namespace, world_size: int = 1) -> tuple[Config, Images, list[str]]:
    """Settings and images of a run, and in words what the number of images changed in the recipe.

    Raises UserError for a batch that the images do not fill or the processes cannot share.
    """
    notes: list[str] = []
    with said_once():
        config = configure(options)
    # Imported after that: a mistake in the settings is told at once.
    from ibot.data.loader import check_batch
    from ibot.recipes.auto import for_few_images

    source = open_data(config.data)
    if options.recipe == "adapt" and not began_with_batch(options, config, len(source)):
        config, notes = for_few_images(config, len(source), world_size, keys_of(options.settings))
    check_batch(config, source, world_size)
    return config, source, notes


def began_with_batch(options: argparse.Namespace, config: Config, images: int) -> bool:
    """Whether the run's folder has a run with the recipe's own batch, which older versions took for
    few images too.
    """
    from ibot.engine.run import read_config

    folder = Path(options.run_folder) if options.run_folder else default_folder(config)
    known = (folder / "config.json").is_file() and config.train.batch <= images
    return known and read_config(folder).train.batch == config.train.batch


def keys_of(settings: Iterable[str]) -> list[str]:
    """What the assignments `section.key=value` set."""
    return [text.partition("=")[0].strip() for text in settings]


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
    asked = [*given, *options.settings]
    base, reasons = (
        chosen(asked) if options.recipe == "auto" else (recipe(options.recipe, beside=["auto"]), [])
    )
    # Of a run's config.json: where one call was to stop is no part of the recipe.
    base = replace(base, train=replace(base.train, max_steps=0))
    config = apply(base, asked)
    if options.recipe == "adapt" and not config.train.init:
        raise UserError(
            "the recipe adapt goes on from weights", fix="name them with --init WEIGHTS"
        )
    recipe_model, keys = config.model, keys_of(options.settings)
    if config.train.init:
        from ibot.engine.start import with_weights

        config = with_weights(config, keys)
    if config.method.patch_target != "online":
        from ibot.engine.tokenizers import with_tokenizer

        config = with_tokenizer(config)
    if config.train.init:
        from ibot.engine.start import as_started

        folder = (
            Path(options.run_folder) if options.run_folder else older_folder(config, recipe_model)
        )
        config = as_started(config, folder, keys)
    check(config)
    if not options.quiet and launched_processes().is_main:
        for reason in reasons:
            print(f"auto   {reason}")
    return config


def chosen(asked: list[str]) -> tuple[Config, list[str]]:
    """Settings for the data and the device, with their reasons; a length and a batch that were
    asked for stay.
    """
    from ibot.data.survey import survey
    from ibot.recipes.auto import Facts, choose
    from ibot.system.device import choose_device, device_memory

    # First of all: what is misspelt is told before the images are looked at.
    given, keys = apply(replace(recipe("tiny32"), recipe="auto"), asked), keys_of(asked)
    source = open_data(given.data)
    memory = device_memory(choose_device(given.system.device))
    length = given.train.length if "train.length" in keys else None
    batch = max(0, given.train.batch) if "train.batch" in keys else 0
    return choose(Facts(survey(source), memory, launched_processes().world_size, length, batch))


def open_data(data: DataConfig) -> Images:
    """The images to train on."""
    from ibot.data.sets.open import open_images

    return open_images(
        data.path, exif_orientation=data.exif_orientation, max_pixels=data.max_pixels
    )


def default_folder(config: Config) -> Path:
    """A folder named after the recipe and a hash of the settings, so that the same command resumes
    its own run.
    """
    plain = to_plain(replace(config, train=replace(config.train, max_steps=0)))
    for section in ("system", "log", "checkpoint", "evaluate"):
        plain.pop(section)
    for key, name in later_at_default(config):
        plain.get(key, {}).pop(name, None)
    return (
        Path("runs")
        / f"{config.recipe or 'run'}-{hashlib.sha256(repr(plain).encode()).hexdigest()[:8]}"
    )


def older_folder(config: Config, asked: ModelConfig) -> Path:
    """Default folder of a run from weights by a version that left these settings of the network to
    the recipe.
    """
    left = {name: getattr(asked, name) for name in ("pos_interp", "act", "mean", "std")}
    return default_folder(replace(config, model=replace(config.model, **left)))


def describe(
    config: Config,
    derived: Derived,
    source: Images,
    folder: Path,
    world_size: int,
    say: Callable[[str], None],
) -> None:
    """What the run will do, before it starts."""
    train = config.train
    micro = f" x {train.accumulate} micro-batches" if train.accumulate > 1 else ""
    say(f"recipe {config.recipe or '-'}: {config.model}, {config.head.out_dim} prototypes")
    say(f"data   {counted(len(source), 'image')} in {source.root}")
    for note in source.notes:
        say(f"note   {note}")
    say(
        f"run    {derived.run_steps} of {counted(derived.total_steps, 'step')}, "
        f"{derived.steps_per_epoch} per epoch; "
        f"batch {train.batch} = {counted(world_size, 'process')} x "
        f"{derived.batch_per_process // train.accumulate}{micro}; "
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
    """k-NN accuracy of a backbone on the labelled images of the data; None without labels.

    Labels that cannot be used are no reason not to train, unless --val-data asked for them.
    """
    from ibot.data.sets.classes import absent_note
    from ibot.data.sets.open import find_labelled
    from ibot.eval.probes import during_training as probe

    data = config.data
    try:
        sets = find_labelled(
            data.path,
            data.val_path,
            exif_orientation=data.exif_orientation,
            max_pixels=data.max_pixels,
        )
    except DataError as error:
        if data.val_path:
            raise
        say(f"note   no k-NN during training: {error.what}")
        return None
    if sets is None:
        return None
    train, val = sets
    for note in (*val.notes, *filter(None, [absent_note(val.labels, val.classes)])):
        say(f"note   validation: {note}")
    return probe.knn_probe(config, train, val, device, launched_processes())
