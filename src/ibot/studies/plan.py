"""What a run will need - time, memory, disk - by some seconds of it on the device at hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ibot.config.resolve import VIEWS_MADE, derive
from ibot.config.schema import Config
from ibot.data.sets.images import Images
from ibot.engine.random_steps import StepSize
from ibot.engine.stages import limit_of
from ibot.engine.start import with_pixels
from ibot.engine.trial import Trial, run_trial
from ibot.method.memory import step_memory
from ibot.studies.forecast import micro_batches
from ibot.studies.stored import Stored
from ibot.system import limits
from ibot.system.device import choose_precision, describe_device, device_memory, prepared
from ibot.system.machine import threads_of_each
from ibot.words import counted, in_words, rate

ROOM = 0.7
"""Share of the memory that a run may fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run on this machine will need."""

    config: Config
    device: torch.device
    trial: Trial
    run_steps: int
    needed: float
    """GiB that a micro-batch may take at most."""
    memory: float
    """GiB of the device, or of the machine."""
    free: float
    """GiB free on the disk of the current folder."""
    stored: Stored
    """Checkpoints."""
    processes: int = 1
    """That the run will have: one per GPU, or parts of one CPU."""

    @property
    def step_seconds(self) -> float:
        """Of an optimizer step of the run; its processes work at once."""
        share = self.config.train.batch / self.processes
        return share / self.trial.size.images * self.trial.stages.total

    @property
    def together(self) -> float:
        """GiB that the processes of one memory need: each GPU has its own."""
        return self.needed * (1 if self.device.type == "cuda" else self.processes)

    @property
    def micro_batch(self) -> int:
        """Images of a micro-batch of one process."""
        return _micro_batch(self.config, self.processes)


def make_plan(config: Config, source: Images, processes: int = 1) -> Plan:
    """Train on real images for some seconds as the run will; nothing is kept.

    With several `processes`, which share the batch, one is tried with the share of each: of the
    batch, and of the cores, as they would be started.
    """
    system, micro = config.system, _micro_batch(config, processes)
    with prepared(system.device, _threads(config, processes), system.deterministic) as device:
        config = with_pixels(config, device)
        memory = device_memory(device) or limits.memory()
        images = micro
        while images > 1 and _peak(config, device, images) > ROOM * memory:
            images //= 2
        whole = StepSize(images, config.train.accumulate if images == micro else 1)
        trial = run_trial(config, source, device, whole)
    # As measured, and what more images take by formula.
    tried = trial.size.micro_batch
    needed = trial.memory + _peak(config, device, micro) - _peak(config, device, tried)
    derived = derive(config, len(source), processes)
    return Plan(
        config=config,
        device=device,
        trial=trial,
        run_steps=derived.run_steps,
        needed=needed,
        memory=memory,
        free=shutil.disk_usage(".").free / 2**30,
        stored=Stored.of(config, derived),
        processes=processes,
    )


def _peak(config: Config, device: torch.device, images: int) -> float:
    """GiB of tensors for a micro-batch, by formula."""
    half = choose_precision(config.train.precision, device) != torch.float32
    gpu = device.type == "cuda"
    return step_memory(config, images, half=half, gpu=gpu, packed=gpu).peak / 2**30


def _micro_batch(config: Config, processes: int) -> int:
    """Images that one of the processes holds at a time."""
    return config.train.batch // config.train.accumulate // processes


def _threads(config: Config, processes: int) -> int:
    """Of each process: as set, or its share of the cores; 0: torch's choice."""
    return config.system.threads or (threads_of_each(processes) if processes > 1 else 0)


def lines(plan: Plan) -> Iterator[str]:
    """The plan in words."""
    trial, train = plan.trial, plan.config.train
    images, steps = counted(trial.size.images, "image"), counted(trial.steps, "step")
    yield f"device {plan.device}: {describe_device(plan.device)}; {steps} of {images} were timed"
    pixels = plan.config.data.pixels
    yield f"views  {VIEWS_MADE[pixels]} (data.pixels={pixels})"
    duration = in_words(plan.step_seconds * plan.run_steps / 3600)
    yield (
        f"time   {plan.step_seconds:.2f} s a step, "
        f"{train.batch / plan.step_seconds:.1f} images/s; "
        f"{duration} for {counted(plan.run_steps, 'step')}, evaluations not counted"
    )
    if plan.processes > 1:
        yield f"note   {shared(plan)}"
    if plan.trial.stages.load:
        yield f"load   {loaded(plan)}"
    yield f"pace   {paced(plan)}"
    more = f", about {plan.needed:.1f} GiB" if plan.needed > trial.memory else ""
    each = " in each process" if plan.processes > 1 else ""
    micro = f"a micro-batch is {plan.micro_batch}{each}{more}"
    took = "not known here" if math.isnan(trial.memory) else f"{trial.memory:.2f} GiB"
    held = counted(trial.size.micro_batch, "image")
    yield f"memory {took} at {held}; {micro}"
    if plan.together > plan.memory:
        most = int(plan.micro_batch * ROOM * plan.memory / plan.together)
        parts = micro_batches(plan.micro_batch * train.accumulate, max(1, most))
        yield (
            f"note   more than the {plan.memory:.0f} GiB here: train.accumulate={parts} gives the "
            "same result in less memory"
        )
    kept = plan.stored.words(plan.config, trial.checkpoint)
    yield f"disk   {kept}; {plan.free:.0f} GiB free here"
    yield f"size   {trial.parameters:,} trained parameters"


def shared(plan: Plan) -> str:
    """How the figures of several processes were reckoned from a trial of one."""
    if plan.device.type == "cuda":
        return (
            f"reckoned from one GPU with its share of the batch, as if {plan.processes} like it, "
            "each with as many cores, lost nothing by exchanging gradients"
        )
    each = counted(threads_of_each(plan.processes), "thread")
    return (
        f"{plan.processes} processes would share the cores of this machine, {each} each: one was "
        "tried with its share, alone; for GPUs name them, as in --device h200 --devices 8"
    )


def loaded(plan: Plan) -> str:
    """What other processes took of the cores meanwhile, and what that may have cost."""
    alone = plan.config.train.batch / plan.step_seconds / max(1 - plan.trial.queued, 0.05)
    return (
        f"{plan.trial.stages.load}, so that these times are long; alone it would be about "
        f"{rate(alone)} images/s"
    )


def paced(plan: Plan) -> str:
    """Which stage will set the pace, and how many loader processes would do."""
    stages, config = plan.trial.stages, plan.config
    if (found := limit_of(stages, config)) is not None:
        return f"{found.evidence}. {found.advice}"
    use = f"{stages.workers} {'is' if stages.workers == 1 else 'are'} in use"
    would = f"{counted(stages.wanted, 'worker')} would do, {use}"
    return f"the step sets it: {rate(stages.uses)} images/s; {would}"


def plain(plan: Plan) -> dict[str, Any]:
    """For JSON: seconds, GiB."""
    found = limit_of(plan.trial.stages, plan.config)
    return {
        "recipe": plan.config.recipe,
        "device": str(plan.device),
        "processes": plan.processes,
        "steps": plan.run_steps,
        "batch": plan.config.train.batch,
        "micro_batch": plan.micro_batch,
        "trial_images": plan.trial.size.images,
        "step_seconds": plan.step_seconds,
        "images_per_second": plan.config.train.batch / plan.step_seconds,
        "hours": plan.step_seconds * plan.run_steps / 3600,
        "limit": "step" if found is None else found.stage,
        "load": plan.trial.stages.load,
        "trial_gib": _known(plan.trial.memory),
        "micro_batch_gib": _known(plan.needed),
        "checkpoint_gib": plan.trial.checkpoint,
        "checkpoints": plan.stored.newest + plan.stored.lasting,
        "free_gib": plan.free,
        "parameters": plan.trial.parameters,
    }


def _known(number: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(number) else number
