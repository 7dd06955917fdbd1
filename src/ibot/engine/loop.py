"""The training loop: in one process, or in each of several."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ibot.config.override import items
from ibot.config.schema import Config
from ibot.data.loader import Loader
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.data.sets.same_channels import SETTING, require_channels
from ibot.data.sets.trimmed import trimmed
from ibot.engine.checkpoint import has_checkpoint, save_checkpoint
from ibot.engine.evaluation import run_evaluation, was_evaluated
from ibot.engine.guards import FailureCheck, note_bad_files, told
from ibot.engine.logging import Progress, StopSignal
from ibot.engine.meter import StageMeter
from ibot.engine.patch_history import best_step
from ibot.engine.stages import pace
from ibot.engine.start import kernels_of, with_pixels
from ibot.engine.trainer import Evaluate, Trainer, build_trainer
from ibot.engine.transfer import ReadStep, ahead
from ibot.kernels.choice import Choices, using
from ibot.system.device import prepared, seed_step
from ibot.system.distributed import any_true, barrier, check_equal, joined
from ibot.system.records import RESULTS, read_records
from ibot.system.sharding import is_sharded
from ibot.types import RunState, StepValues
from ibot.words import counted


def train(
    config: Config,
    run_path: str | Path,
    *,
    command: str = "",
    source: Images | None = None,
    evaluate: Evaluate | None = None,
    quiet: bool = False,
    opening: Iterable[str] = (),
    reasons: Sequence[str] = (),
) -> RunState:
    """Pre-train by `config` in the run folder `run_path`, or resume there.

    Threads, random numbers, signal handlers and whatever else belongs to the process are as before
    when it returns.

    Args:
        config: settings; `data.path` names the images.
        run_path: created when absent; a folder of the same settings is resumed.
        command: the command line, recorded in the run folder and in the advice how to resume.
        source: the images, when they were opened already; else those that `data.path` names.
        evaluate: k-NN or anything like it, called on the initial weights, every `evaluate.every`,
            and at the end.
        quiet: no progress on the terminal.
        opening: lines for the head of the run's log, such as what was said of the run before.
        reasons: why settings were chosen, kept with the run's events.

    Returns:
        Where the run stands; `state.step` below the end means that SIGTERM or SIGUSR1 stopped it.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the step is done and saved.
        UserError: settings, data or run folder cannot be used.
        TrainingStopped: a loss was not finite, or too many files are unreadable.
        ResourceError: the disk is full, or the run folder can no longer be written.
    """
    run_path = Path(run_path)
    mode, why = kernels_of(config, run_path)
    with (
        prepared(
            config.system.device, config.system.threads, config.system.deterministic
        ) as device,
        joined(device) as processes,
        using(mode, why=why) as kernels,
        StopSignal() as signal,
        Progress(quiet=quiet, rank=processes.rank, opening=opening) as progress,
    ):
        config = with_pixels(config, device, run_path)
        images = source
        if images is None:
            data, read = config.data, (config.model.channels, config.model.mean)
            images = open_images(
                data.path,
                exif_orientation=data.exif_orientation,
                max_pixels=data.max_pixels,
                channels=data.reading.of(*read),
                windows=data.windowing,
            )
        images = trimmed(images, config.data.trim_border)
        require_channels(images, config.model.channels, SETTING)
        check_equal(facts(config, images, evaluate))  # before the first thing that they do together
        trainer = build_trainer(
            config,
            run_path,
            images,
            processes=processes,
            device=device,
            progress=progress,
            command=command,
            evaluate=evaluate,
        )
        try:
            with told(trainer):
                if processes.is_main and reasons:
                    trainer.run.event("choices", reasons=list(reasons))
                run_steps(trainer, signal, kernels)
                interrupted = any_true(signal.interrupted)
        finally:
            # The wrapper goes before its group of processes: if it held the last reference, its end
            # would wait for threads that wait for Python's lock.
            trainer.update.student = trainer.model.student
            trainer.board.close()
            trainer.run.close()
    if interrupted:
        raise KeyboardInterrupt
    return trainer.state


def facts(config: Config, source: Images, evaluate: Evaluate | None) -> dict[str, object]:
    """What all processes must agree on, as they decide by it when to work together."""
    decisive = {
        "the names of the images": source.provenance()["names_sha256"],
        "whether the teacher is evaluated": evaluate is not None,
        "system.shard": config.system.shard,
        "system.kernels": config.system.kernels,
    }
    own = ("system.", "data.path", "data.val_path")  # of each machine
    return decisive | {key: value for key, value in items(config) if not key.startswith(own)}


def run_steps(trainer: Trainer, signal: StopSignal, kernels: Choices) -> None:
    """The loop. Stops at the end, at `train.max_steps`, or after the step of a signal.

    What `kernels` holds after the first step is said.
    """
    config, schedules, end = trainer.config, trainer.schedules, trainer.derived.run_steps
    loader = Loader(
        config,
        trainer.source,
        grid=mask_grid(config),
        rank=trainer.processes.rank,
        world_size=trainer.processes.world_size,
        start_step=trainer.state.step,
        end_step=end,
        drop_rates=trainer.drop_rates,
    )
    if trainer.state.step == 0 and not was_evaluated(trainer):
        run_evaluation(trainer)
    failure, began_at = FailureCheck(trainer), trainer.state.step
    meter = trainer.health.meter = StageMeter(trainer.device, loader.workers)
    steps = ahead(loader, config, trainer.device, meter.measure)
    for batches, began, wait_seconds in timed(steps, signal, trainer.device):
        step = trainer.state.step
        values = schedules.at(step)
        seed_step(config.train.seed, step)
        on_device = batches.on_device()
        with meter.measure("step"):
            out = trainer.update.step(on_device, values, observe=trainer.health.wants(step))
        if step == began_at:
            trainer.progress.message(kernels.text())
        failure.check(step, out, values, batches.read)
        trainer.state = replace(
            trainer.state,
            step=step + 1,
            images_seen=trainer.state.images_seen + config.train.batch,
            epoch=schedules.epoch(step + 1),
            skipped_steps=trainer.state.skipped_steps + out.skipped,
        )
        note_bad_files(trainer, batches.read)
        trainer.health.observe(step, out, batches.read, time.perf_counter() - began, wait_seconds)
        last = trainer.state.step == end
        if trainer.state.step % config.log.every == 0 or last:
            failure.drain()
            write_log(trainer, values, end)
        else:
            trainer.progress.step(trainer.state.step, end)
        evaluated = trainer.every(config.evaluate.every) or last
        best_dense = evaluated and run_evaluation(trainer)
        if trainer.every(config.checkpoint.every) or last or best_dense:
            failure.drain()
            save(trainer)
    if trainer.state.step < end:  # a signal came
        failure.drain()
        if trainer.health.observed:
            write_log(trainer, schedules.at(trainer.state.step - 1), end)
        save(trainer)
    finish(trainer, end)


def timed(
    steps: Iterator[ReadStep], signal: StopSignal, device: torch.device
) -> Iterator[tuple[ReadStep, float, float]]:
    """Steps until a signal comes to any of the processes: the batches of each with the moment when
    they came, and the wait for them.

    From that moment on the step counts: all wait for the slowest process, and for a GPU's last
    step, in the vote.
    """
    while True:
        asked = time.perf_counter()
        batches = signal.next_of(steps)
        came = time.perf_counter()
        if any_true(signal.stop) or batches is None:
            return
        yield batches, came, came - asked


def mask_grid(config: Config) -> tuple[int, int]:
    """Cells of the mask of a global view, rows and columns: one per patch token."""
    height, width = config.augment.global_size
    return height // config.model.stride, width // config.model.stride


def write_log(trainer: Trainer, values: StepValues, end: int) -> None:
    """One line of numbers and words: the only place where the loop waits for a GPU."""
    report = trainer.health.report()
    state = trainer.state
    row = {
        "step": state.step,
        "images_seen": state.images_seen,
        "epoch": trainer.schedules.epochs_passed(state.step),
        "skipped_steps": state.skipped_steps,
        "lr": values.lr,
        "weight_decay": values.weight_decay,
        "momentum": values.momentum,
        "teacher_temp": values.teacher_temp,
        "patch_temp": values.patch_temp,
        **report.values,
    }
    if trainer.processes.is_main:
        trainer.run.metrics({**row, "health": report.words})
        trainer.board.scalars(row, state.step)
        for verdict in report.verdicts:
            trainer.run.verdict(state.step, verdict)
    trainer.progress.update(state.step, end, {**row, "health": report.words})
    for verdict in report.verdicts:
        trainer.progress.message(f"step {state.step}: {verdict}")


def save(trainer: Trainer) -> None:
    """Checkpoint, unless there is one of this step. The main process writes it, of sharded networks
    each its part; all wait for the end.

    So none runs ahead of a failing disk. That of the best patches is kept, and named.
    """
    run, main = trainer.run.path, trainer.processes.is_main
    missing = any_true(main and not has_checkpoint(run, trainer.state.step))
    if missing and (main or is_sharded(trainer.model.student)):
        keep_every = trainer.steps(trainer.config.checkpoint.keep_every)
        save_checkpoint(
            run,
            trainer.model,
            trainer.update.optimizer,
            trainer.state,
            config=trainer.config,
            scaler=trainer.update.scaler,
            keep=trainer.config.checkpoint.keep,
            protect=lambda step: keep_every > 0 and step % keep_every == 0,
            best_dense=best_step(read_records(run / RESULTS)),
        )
    barrier()


def finish(trainer: Trainer, end: int) -> None:
    """Say how the run ended."""
    state, run = trainer.state, trainer.run
    done = state.step >= end
    if (stages := trainer.health.meter.whole()) is not None:
        said = pace(stages, trainer.config)
        trainer.progress.message(f"pace   {said}")
        if trainer.processes.is_main:
            run.event("pace", step=state.step, text=said, **stages.numbers())
    if trainer.processes.is_main:
        run.event(
            "end" if done else "stopped by signal", step=state.step, bad_files=trainer.bad_files
        )
    bad = run.bad_files()
    if bad:
        trainer.progress.message(
            f"{counted(len(bad), 'file')} could not be read, listed in "
            f"{run.path / 'bad_files.jsonl'}:"
        )
        for name, reason in bad:
            trainer.progress.message(f"  {name}: {reason}")
    if not done:
        trainer.progress.message(
            f"stopped at step {state.step} of {end}, saved; the same command resumes it"
        )
