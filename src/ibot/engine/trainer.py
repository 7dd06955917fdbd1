"""What the loop holds, and how it is built: in one process, or in each of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

import ibot
from ibot.config.duration import Duration
from ibot.config.resolve import Derived, derive
from ibot.config.schema import Config
from ibot.data.loader import check_batch
from ibot.data.sets.images import Images
from ibot.engine.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    mark_best_dense,
    reached_step,
    remove_leftovers,
)
from ibot.engine.failures import failures_kept
from ibot.engine.health import HealthMonitor
from ibot.engine.logging import Progress, TensorBoard
from ibot.engine.makers import note_makers
from ibot.engine.optimizer import build_optimizer
from ibot.engine.patch_history import best_step
from ibot.engine.run import LOG, RunFolder
from ibot.engine.schedule import Schedules
from ibot.engine.start import start_from_weights
from ibot.engine.tokenizers import build_tokenizer
from ibot.engine.update import Update
from ibot.engine.wrapping import averaging, place
from ibot.method.model import StudentTeacher
from ibot.models.layers import set_part
from ibot.rng import Purpose, torch_seed
from ibot.system.device import autocast, choose_precision
from ibot.system.distributed import check_equal
from ibot.system.processes import Processes
from ibot.system.records import RESULTS, read_records
from ibot.types import ResultRecord, RunState

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
        """Whether something of this interval is due after the step just done; never for 0."""
        steps = self.steps(interval)
        return steps > 0 and self.state.step % steps == 0

    @property
    def drop_rates(self) -> tuple[float, ...]:
        """Stochastic depth of each block that the loader draws for; empty: nothing to draw."""
        return self.model.student.backbone.drop_rates if self.state.draws > 1 else ()

    def steps(self, interval: Duration) -> int:
        """An interval in optimizer steps, at least 1 unless it is 0."""
        schedules = self.schedules
        steps = interval.steps(
            batch=self.config.train.batch,
            steps_per_epoch=schedules.steps_per_epoch,
            total_steps=schedules.total_steps,
        )
        return max(steps, 1) if interval.value > 0 else 0


def build_trainer(
    config: Config,
    run_path: Path,
    source: Images,
    *,
    processes: Processes,
    device: torch.device,
    progress: Progress,
    command: str,
    evaluate: Evaluate | None = None,
) -> Trainer:
    """Build the seeded networks, open the run folder, load its last checkpoint, if any."""
    check_batch(config, source, processes.world_size)  # what is refused leaves no folder behind
    run = RunFolder.create(
        run_path,
        config,
        command=command,
        source_info=source.provenance(),
        processes=processes,
        images=source,
    )
    with failures_kept(run, processes, lambda: reached_step(run.path)):
        if processes.is_main:
            progress.keep(run.path / LOG)
        return _built(config, run, source, processes, device, progress=progress, evaluate=evaluate)


def _built(
    config: Config,
    run: RunFolder,
    source: Images,
    processes: Processes,
    device: torch.device,
    *,
    progress: Progress,
    evaluate: Evaluate | None,
) -> Trainer:
    """What is built once the run folder is there."""
    derived = derive(config, len(source), processes.world_size)
    torch.manual_seed(torch_seed(config.train.seed, 0, 0, Purpose.INIT))
    model = StudentTeacher(config)
    model.tokenizer = build_tokenizer(config, source, run.path, processes)
    checkpoint = prepare(model, config, run, progress)
    place(model, config, processes, device)
    precision = choose_precision(config.train.precision, device)
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        scaler=torch.amp.GradScaler(device.type) if precision is torch.float16 else None,
        autocast=partial(autocast, device, precision),
    )
    state = begin(update, run, checkpoint, processes, progress, device)
    if state.draws == 1:
        set_part(model.student, processes.rank, processes.world_size)
    update.student = averaging(model.student, processes, device)  # all from the same weights
    schedules = Schedules.of(config, derived)
    shown = config.log.tensorboard and processes.is_main
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
        health=HealthMonitor.of(config, schedules, num_images=len(source)),
        board=TensorBoard(run.path / "tensorboard" if shown else None),
        state=state,
        evaluate=evaluate,
    )


def prepare(
    model: StudentTeacher, config: Config, run: RunFolder, progress: Progress
) -> Path | None:
    """The run's last checkpoint; without one the networks are filled from `train.init`, if set."""
    checkpoint = find_checkpoint(run.path)
    if checkpoint is None and config.train.init:
        taken = start_from_weights(model, config)
        progress.message(f"{taken} from {config.train.init}")
    return checkpoint


def begin(
    update: Update,
    run: RunFolder,
    checkpoint: Path | None,
    processes: Processes,
    progress: Progress,
    device: torch.device,
) -> RunState:
    """Fill networks and optimizer from the checkpoint, if any; returns where the run stands."""
    state = RunState(versions={"ibot": ibot.__version__, "torch": torch.__version__})
    if processes.is_main:
        remove_leftovers(run.path)
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, update.model, update.optimizer, scaler=update.scaler)
        if processes.is_main:
            run.event("resume", step=state.step)
        progress.message(f"resumed from step {state.step} ({checkpoint.name})")
    if processes.is_main:
        for note in note_makers(run, update.config, device):
            progress.message(note)
        run.forget_after(state.step)
        mark_best_dense(run.path, best_step(read_records(run.path / RESULTS)))
    check_equal({"the step to go on from": state.step})
    return state
