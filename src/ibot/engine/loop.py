"""The training loop: in one process, or in each of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

import ibot
from ibot.config.override import items
from ibot.config.resolve import Derived, derive
from ibot.config.schema import Config, Duration, ModelConfig
from ibot.data.loader import Loader, check_batch
from ibot.data.pixels import normalize
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.engine.checkpoint import (
    checkpoint_bytes,
    disk_full,
    find_checkpoint,
    has_checkpoint,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from ibot.engine.health import HealthMonitor
from ibot.engine.logging import Progress, StopSignal, TensorBoard
from ibot.engine.optimizer import build_optimizer
from ibot.engine.run import LOG, RunFolder
from ibot.engine.schedule import Schedules
from ibot.engine.start import start_from_weights
from ibot.engine.tokenizers import build_tokenizer
from ibot.engine.update import Update, UpdateOutput
from ibot.errors import TrainingStopped
from ibot.method.model import StudentTeacher
from ibot.models.layers import set_part
from ibot.rng import Purpose, torch_seed
from ibot.system.device import autocast, choose_precision, prepared, seed_step
from ibot.system.distributed import any_true, barrier, check_equal, gather, joined, wrap_student
from ibot.system.files import is_disk_full, lost
from ibot.system.processes import Processes
from ibot.system.records import read_records
from ibot.types import Batch, ResultRecord, RunState, StepValues
from ibot.words import counted

Evaluate = Callable[[nn.Module, int], list[ResultRecord]]
"""Called with the teacher's backbone and the step, in every process; must leave the backbone as
it was."""


@dataclass(slots=True, kw_only=True)
class Trainer:
    """What the loop holds: networks, optimizer, schedules, records. Built by `build_trainer`."""

    config: Config
    run: RunFolder
    processes: Processes
    device: torch.device
    model: StudentTeacher
    update: Update
    schedules: Schedules
    derived: Derived
    source: Images
    progress: Progress
    health: HealthMonitor
    board: TensorBoard
    state: RunState
    evaluate: Evaluate | None = None
    bad_files: int = 0

    def every(self, interval: Duration) -> bool:
        """Whether something with this interval is due after the step just done; never for an
        interval of 0.
        """
        steps = self.steps(interval)
        return steps > 0 and self.state.step % steps == 0

    def steps(self, interval: Duration) -> int:
        """An interval in optimizer steps, at least 1 unless it is 0."""
        schedules = self.schedules
        steps = interval.steps(
            batch=self.config.train.batch,
            steps_per_epoch=schedules.steps_per_epoch,
            total_steps=schedules.total_steps,
        )
        return max(steps, 1) if interval.value > 0 else 0


def train(
    config: Config,
    run_path: str | Path,
    *,
    command: str = "",
    source: Images | None = None,
    evaluate: Evaluate | None = None,
    quiet: bool = False,
    opening: Iterable[str] = (),
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

    Returns:
        Where the run stands; `state.step` below the end means that SIGTERM or SIGUSR1 stopped it.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the step is done and saved.
        UserError: settings, data or run folder cannot be used. TrainingStopped: a loss was not
            finite, or too many
        files are unreadable. ResourceError: the disk is full, or the run folder can no longer be
        written.
    """
    run_path = Path(run_path)
    with (
        prepared(
            config.system.device, config.system.threads, config.system.deterministic
        ) as device,
        joined(device) as processes,
        StopSignal() as signal,
        Progress(quiet=quiet, rank=processes.rank, opening=opening) as progress,
    ):
        images = source
        if images is None:
            data = config.data
            images = open_images(
                data.path, exif_orientation=data.exif_orientation, max_pixels=data.max_pixels
            )
        check_equal(facts(config, images, evaluate))  # before the first thing that they do together
        trainer = build_trainer(config, run_path, images, processes, device, progress, command)
        trainer.evaluate = evaluate
        try:
            run_steps(trainer, signal)
            interrupted = any_true(signal.interrupted, device)
        except OSError as error:  # a log line may meet the full disk before a checkpoint does
            needed = checkpoint_bytes(trainer.model, trainer.update.optimizer)
            raise (
                disk_full(run_path, needed) if is_disk_full(error) else lost(run_path, error)
            ) from None
        finally:
            trainer.board.close()
            trainer.run.close()
    if interrupted:
        raise KeyboardInterrupt
    return trainer.state


def facts(config: Config, source: Images, evaluate: Evaluate | None) -> dict[str, object]:
    """What all processes must agree on, as they decide by it when to work together."""
    decisive = {
        "the names of the images": source.provenance()["names_sha256"],
        "whether there are labelled images": evaluate is not None,
    }
    return decisive | {
        key: value for key, value in items(config) if not key.startswith(("system.", "data."))
    }


def build_trainer(
    config: Config,
    run_path: Path,
    source: Images,
    processes: Processes,
    device: torch.device,
    progress: Progress,
    command: str,
) -> Trainer:
    """Build the networks with seeded weights, open the run folder, load its last checkpoint if
    there is one.
    """
    check_batch(config, source, processes.world_size)  # what is refused leaves no folder behind
    derived = derive(config, len(source), processes.world_size)
    run = RunFolder.create(
        run_path, config, command=command, source_info=source.provenance(), processes=processes
    )
    if processes.is_main:
        progress.keep(run.path / LOG)
    torch.manual_seed(torch_seed(config.train.seed, 0, 0, Purpose.INIT))
    model = StudentTeacher(config)
    model.tokenizer = build_tokenizer(config, source, run.path, processes)
    model.to(device)
    precision = choose_precision(config.train.precision, device)
    scaler = torch.amp.GradScaler(device.type) if precision is torch.float16 else None
    optimizer = build_optimizer(model.student, config.optim)
    state = RunState(versions={"ibot": ibot.__version__, "torch": torch.__version__})
    if processes.is_main:
        remove_leftovers(run.path)
    checkpoint = find_checkpoint(run.path)
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, model, optimizer, scaler=scaler)
        if processes.is_main:
            run.event("resume", step=state.step)
        progress.message(f"resumed from step {state.step} ({checkpoint.name})")
    elif config.train.init:
        taken = start_from_weights(model, config)
        progress.message(f"{taken} from {config.train.init}")
    if processes.is_main:
        run.forget_after(state.step)
    check_equal({"the step to go on from": state.step})
    set_part(model.student, processes.rank, processes.world_size)
    student = wrap_student(model.student, processes, device)
    update = Update(model, student, optimizer, config, scaler, partial(autocast, device, precision))
    schedules = Schedules(
        config=config,
        steps_per_epoch=derived.steps_per_epoch,
        total_steps=derived.total_steps,
        warmup_steps=derived.warmup_steps,
        temp_warmup_steps=derived.temp_warmup_steps,
        freeze_steps=derived.freeze_steps,
        head_warmup_steps=derived.head_warmup_steps,
    )
    health = HealthMonitor.from_config(config, schedules, num_images=len(source))
    board = TensorBoard(
        run.path / "tensorboard" if config.log.tensorboard and processes.is_main else None
    )
    return Trainer(
        config=config,
        run=run,
        processes=processes,
        device=device,
        model=model,
        update=update,
        schedules=schedules,
        derived=derived,
        source=source,
        progress=progress,
        health=health,
        board=board,
        state=state,
    )


def run_steps(trainer: Trainer, signal: StopSignal) -> None:
    """The loop. Stops at the end, at `train.max_steps`, or before the next step once a signal
    came.
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
    )
    if trainer.state.step == 0 and not was_evaluated(trainer):
        run_evaluation(trainer)
    failure = FailureCheck(trainer)
    for micro_batches, began, wait_seconds in timed(loader, signal, trainer.device):
        step = trainer.state.step
        values = schedules.at(step)
        seed_step(config.train.seed, step)
        on_device = [to_device(batch, trainer.device, config.model) for batch in micro_batches]
        out = trainer.update.step(on_device, values, observe=trainer.health.wants(step))
        failure.check(step, out, values, micro_batches)
        trainer.state = replace(
            trainer.state,
            step=step + 1,
            images_seen=trainer.state.images_seen + config.train.batch,
            epoch=schedules.epoch(step + 1),
            skipped_steps=trainer.state.skipped_steps + out.skipped,
        )
        note_bad_files(trainer, micro_batches)
        trainer.health.observe(step, out, micro_batches, time.perf_counter() - began, wait_seconds)
        last = trainer.state.step == end
        if trainer.state.step % config.log.every == 0 or last:
            failure.drain()
            write_log(trainer, values, end)
        if trainer.every(config.evaluate.every) or last:
            run_evaluation(trainer)
        if trainer.every(config.checkpoint.every) or last:
            failure.drain()
            save(trainer)
    if trainer.state.step < end:  # a signal came
        failure.drain()
        if trainer.health.observed:
            write_log(trainer, schedules.at(trainer.state.step - 1), end)
        save(trainer)
    finish(trainer, end)


def to_device(batch: Batch, device: torch.device, config: ModelConfig) -> Batch:
    """Move a batch to the device and normalise its views there, for the network of `config`.

    Bytes travel, not floats.
    """

    def move(views: torch.Tensor | None) -> torch.Tensor | None:
        return (
            None
            if views is None
            else normalize(views.to(device, non_blocking=True), config.statistics)
        )

    masks = batch.masks.each(lambda tensor: tensor.to(device, non_blocking=True))
    return replace(
        batch,
        global_views=move(batch.global_views),
        local_views=move(batch.local_views),
        masks=masks,
    )


def timed(
    loader: Loader, signal: StopSignal, device: torch.device
) -> Iterator[tuple[list[Batch], float, float]]:
    """Batches until a signal comes to any of the processes: each with the moment when it came, and
    the wait for it.

    From that moment on its step counts: all wait for the slowest process, and for a GPU's last
    step, in the vote.
    """
    batches = iter(loader)
    while True:
        asked = time.perf_counter()
        batch = signal.next_of(batches)
        came = time.perf_counter()
        if any_true(signal.stop, device) or batch is None:
            return
        yield batch, came, came - asked


def mask_grid(config: Config) -> tuple[int, int]:
    """Cells of the mask of a global view, rows and columns: one per patch token."""
    height, width = config.augment.global_size
    return height // config.model.stride, width // config.model.stride


class FailureCheck:
    """Stops all processes together when a loss is not finite.

    The flag is reduced over the processes in the step itself. On a GPU it is read one step late, so
    that nothing waits; `drain` reads what is left, and is called before anything is saved.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.pending: tuple[int, UpdateOutput, StepValues, list[Batch]] | None = None

    def check(self, step: int, out: UpdateOutput, values: StepValues, batches: list[Batch]) -> None:
        """Look at the step before (GPU) or at this one (CPU). Raises TrainingStopped."""
        self.drain()
        self.pending = (step, out, values, batches)
        if self.trainer.device.type == "cpu":
            self.drain()

    def drain(self) -> None:
        """Look at the last step. Raises TrainingStopped."""
        if self.pending is None:
            return
        step, out, values, batches = self.pending
        self.pending = None
        if not out.failed.item():
            return
        trainer = self.trainer
        source = trainer.source
        own = [str(source.root / source.name(int(i))) for batch in batches for i in batch.index]
        files = [file for part in gather(own) for file in part]
        losses = {
            name: out.metrics[name].item()
            for name in ("cls_loss", "patch_loss", "koleo_loss")
            if name in out.metrics
        }
        if trainer.processes.is_main:
            trainer.run.event(
                "non-finite loss", step=step, lr=values.lr, losses=losses, files=files
            )
        last = find_checkpoint(trainer.run.path)
        raise TrainingStopped(
            f"the loss is not finite at step {step} (learning rate {values.lr:.3g})",
            why=f"losses {losses}; {len(files)} files from {files[0]} on, listed in "
            f"{trainer.run.path}/events.jsonl",
            fix=f"last good state: {last or 'none'}; lower optim.lr, lengthen optim.warmup, or "
            "train.precision=float32",
        )


def note_bad_files(trainer: Trainer, batches: list[Batch]) -> None:
    """Record files that could not be read; stop when there are too many of them."""
    for batch in batches:
        for path, reason in batch.bad:
            trainer.bad_files += trainer.run.bad_file(path, reason)
    limit = trainer.config.data.max_bad_fraction
    if trainer.bad_files > max(20, limit * len(trainer.source) / trainer.processes.world_size):
        raise TrainingStopped(
            f"{trainer.bad_files} of {len(trainer.source)} files cannot be read",
            why=f"more than data.max_bad_fraction={limit:g}; see "
            f"{trainer.run.path / 'bad_files.jsonl'}",
            fix="repair or remove the files, or raise data.max_bad_fraction",
        )


def write_log(trainer: Trainer, values: StepValues, end: int) -> None:
    """One line of numbers and words: the only place where the loop waits for a GPU."""
    report = trainer.health.report()
    state = trainer.state
    row = {
        "step": state.step,
        "images_seen": state.images_seen,
        "epoch": state.step / trainer.schedules.steps_per_epoch,
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
            trainer.run.event("health", step=state.step, verdict=verdict.kind, text=str(verdict))
    trainer.progress.update(state.step, end, {**row, "health": report.words})
    for verdict in report.verdicts:
        trainer.progress.message(f"step {state.step}: {verdict}")


def run_evaluation(trainer: Trainer) -> None:
    """k-NN of the teacher by the callable handed in; all processes share its work, the main one
    keeps the records.
    """
    if trainer.evaluate is None:
        return
    fallen = ""
    records = trainer.evaluate(trainer.model.teacher.backbone, trainer.state.step)
    if trainer.processes.is_main:
        for record in records:
            trainer.run.result(record)
            trainer.board.scalars({record.metric: record.value}, trainer.state.step)
            trainer.progress.message(
                f"step {trainer.state.step}: {record.metric} {record.value:.1f}"
            )
            fallen = fallen or fallen_below_start(trainer, record)
    if any_true(bool(fallen), trainer.device):
        raise TrainingStopped(
            "the features got worse than those it started from",
            why=fallen or "k-NN on the main process",
            fix="lower optim.lr, raise method.momentum, lengthen train.head_warmup; or "
            "evaluate.guard=0 to go on",
        )


def was_evaluated(trainer: Trainer) -> bool:
    """Whether there is a record of this step, from before an interruption; the main process's
    word.
    """
    known = read_records(trainer.run.path / "results.jsonl") if trainer.processes.is_main else []
    return any_true(any(r.step == trainer.state.step for r in known), trainer.device)


def fallen_below_start(trainer: Trainer, record: ResultRecord) -> str:
    """In words, that k-NN is more than `evaluate.guard` points below its first value of this run;
    else empty.
    """
    guard = trainer.config.evaluate.guard
    if not guard or record.metric != "knn_top1":
        return ""
    known = read_records(trainer.run.path / "results.jsonl")
    start = next((r.value for r in known if r.metric == record.metric), record.value)
    if record.value >= start - guard:
        return ""
    trainer.run.event("guard", step=trainer.state.step, start=start, now=record.value)
    return (
        f"k-NN {record.value:.1f} at step {trainer.state.step}, {start:.1f} at the start; "
        f"evaluate.guard={guard:g}"
    )


def save(trainer: Trainer) -> None:
    """Checkpoint on the main process, unless there is one of this step; the others wait for it.

    So none runs ahead of a failing disk.
    """
    if trainer.processes.is_main and not has_checkpoint(trainer.run.path, trainer.state.step):
        keep_every = trainer.steps(trainer.config.checkpoint.keep_every)
        save_checkpoint(
            trainer.run.path,
            trainer.model,
            trainer.update.optimizer,
            trainer.state,
            config=trainer.config,
            scaler=trainer.update.scaler,
            keep=trainer.config.checkpoint.keep,
            protect=lambda step: keep_every > 0 and step % keep_every == 0,
        )
    barrier()


def finish(trainer: Trainer, end: int) -> None:
    """Say how the run ended."""
    state, run = trainer.state, trainer.run
    done = state.step >= end
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
