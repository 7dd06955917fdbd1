"""Pre-training from beginning to end: what is said before, evaluations on the way, what follows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ibot.config.resolve import VIEWS_MADE, Derived, derive, warnings
from ibot.config.schema import Config
from ibot.data.sets.images import Images
from ibot.engine.checkpoint import reached_step
from ibot.engine.logging import append_line
from ibot.engine.loop import train
from ibot.engine.run import LOG, RunFolder
from ibot.engine.start import with_pixels
from ibot.recipes import beyond_paper
from ibot.studies.ending import close, close_again, with_start
from ibot.studies.probes import Evaluated, probes
from ibot.studies.settings import Prepared, Say
from ibot.system.device import choose_device, model_of_device
from ibot.system.processes import launched_processes
from ibot.system.watch import from_main, hosts
from ibot.words import counted

MACHINES = 4
"""That are named; of more the number is said."""


def pretrain(
    prepared: Prepared, *, command: str, steps_option: int | None = None, quiet: bool = False
) -> bool:
    """Pre-train, or resume; says what will be done before and where the results are after.

    Returns whether it came to its end, where a signal may have stopped it before.

    Args:
        prepared: settings, images and folder.
        command: what the run's records name as the command.
        steps_option: the number given with --steps, which is named where it ends the run.
        quiet: say nothing.
    """
    source, folder = prepared.source, prepared.folder
    device = choose_device(prepared.config.system.device)
    config = with_pixels(prepared.config, device, folder)
    processes = launched_processes()
    images = prepared.seen["images"] if prepared.seen else len(source)
    derived = derive(config, images, processes.world_size)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if processes.is_main and not quiet:
            print(text)

    say_and_keep = kept(say, folder / LOG) if processes.is_main else say
    limit = ""
    if derived.run_steps < derived.total_steps:
        limit = "--steps" if steps_option == config.train.max_steps else "train.max_steps"
    reached = from_main("step reached", reached_step(folder))
    if reached >= derived.run_steps:
        # Opened all the same, so that other settings, other images and a run in progress are told.
        RunFolder.create(
            folder,
            config,
            command=command,
            source_info=prepared.seen or source.provenance(),
            processes=processes,
            images=source if prepared.seen is None else None,
        ).close()
        whole = f"the schedule has {counted(derived.total_steps, 'step')}"
        end = f"{limit} {config.train.max_steps}" if limit else whole
        say_and_keep(f"already at step {reached}: nothing to do ({end})")
        for note in prepared.notes:
            say_and_keep(f"note   {note}")
        if processes.is_main and prepared.seen is None:
            close_again(config, folder, source, derived, reached, say_and_keep)
        say_next(folder, source, reached, derived, limit, say_and_keep)
        return True
    on = devices(device, processes.world_size, hosts())
    describe(
        config, derived, source, folder=folder, world_size=processes.world_size, on=on, say=say
    )
    for note in prepared.notes:
        say(f"note   {note}")
    evaluated = Evaluated.of(config, source, say)
    evaluate = probes(config, evaluated, device, say)
    if config.train.init and evaluate is not None:
        evaluate = with_start(evaluate, config, folder, evaluated, derived, device)
    state = train(
        config,
        folder,
        command=command,
        source=source,
        evaluate=evaluate,
        quiet=quiet,
        opening=[*(f"auto   {reason}" for reason in prepared.reasons), *said],
        reasons=[] if prepared.goes_on else [*prepared.reasons, *prepared.notes],
    )
    if state.step >= derived.run_steps:
        done = f"{counted(state.step, 'step')}, {counted(state.images_seen, 'image')}"
        say_and_keep(f"done: {done}. Weights: {folder}")
        if processes.is_main:
            close(config, folder, evaluated, derived, state.step, say_and_keep)
    say_next(folder, source, state.step, derived, limit, say_and_keep)
    return state.step >= derived.run_steps


def devices(device: torch.device, world_size: int, machines: Sequence[str]) -> str:
    """What a run trains on: "16 x NVIDIA H100 80GB HBM3 on node1, node2".

    Args:
        device: of this process; the others have their like.
        world_size: processes, each with a device.
        machines: that they are on.
    """
    named = ", ".join(machines[:MACHINES])
    more = len(machines) - MACHINES
    return f"{world_size} x {model_of_device(device)} on {named}" + (
        f" and {more} more" if more > 0 else ""
    )


def kept(say: Say, log: Path) -> Say:
    """`say`, and the line is kept in the run's log; where nothing trains, a lost disk ends
    nothing.
    """

    def both(text: str) -> None:
        say(text)
        with suppress(OSError):
            append_line(log, text)

    return both


def say_next(
    folder: Path, source: Images, step: int, derived: Derived, limit: str, say: Say
) -> None:
    """What can be done with a run that reached `step`: use it, or train on.

    source: the images, which have labels or not.
    limit: the option that ends the run before its schedule, empty without one.
    """
    if step >= derived.run_steps:
        name = shlex.quote(str(folder))
        measure = "knn" if source.provenance().get("classes") else "match"
        say(
            f"next: ibot eval {measure} {name} --data DIR    "
            f"ibot features {name} --data DIR --out FILE    ibot report {name}"
        )
    left = derived.total_steps - step
    if left > 0:
        how = f"without {limit} " if limit else ""
        say(
            f"{left} of {counted(derived.total_steps, 'step')} of the schedule are left: the same "
            f"command {how}goes on"
        )


def describe(
    config: Config,
    derived: Derived,
    source: Images,
    *,
    folder: Path,
    world_size: int,
    on: str = "",
    say: Say,
) -> None:
    """What the run will do, before it starts.

    on: the devices of its processes, in words; empty: not said here.
    """
    train = config.train
    micro = f" x {train.accumulate} micro-batches" if train.accumulate > 1 else ""
    say(f"recipe {config.recipe or '-'}: {config.model}, {config.head.out_dim} prototypes")
    say(f"data   {counted(len(source), 'image')} in {source.root}")
    for note in source.notes:
        say(f"note   {note}")
    say(f"views  {VIEWS_MADE[config.data.pixels]} (data.pixels={config.data.pixels})")
    say(
        f"run    {derived.run_steps} of {counted(derived.total_steps, 'step')}, "
        f"{derived.steps_per_epoch} per epoch; "
        f"batch {train.batch} = {counted(world_size, 'process')} x "
        f"{derived.batch_per_process // train.accumulate}{micro}; "
        f"peak learning rate {derived.lr_actual:.3g}; seed {train.seed}"
    )
    if on:
        say(f"device {on}")
    say(f"folder {folder} (the same command resumes it)")
    for note in (*derived.notes, *warnings(config)):
        say(f"note   {note}")
    extra = beyond_paper(config)
    if extra:
        say("beyond the paper: " + "; ".join(extra))
