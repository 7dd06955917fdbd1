"""What a run will need - time, memory, disk - by a short trial on the device at hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ibot.config.resolve import VIEWS_MADE, derive
from ibot.config.schema import Config
from ibot.data.loader import choose_workers
from ibot.data.sets.images import Images
from ibot.engine.stages import Stages, limit_of
from ibot.engine.start import with_pixels
from ibot.engine.trial import Trial, run_trial
from ibot.studies.forecast import Forecast, Machine, micro_batches
from ibot.studies.probing import probe, this_device
from ibot.system import limits
from ibot.system.device import choose_device, describe_device, device_memory
from ibot.system.machine import threads_of_each
from ibot.words import counted, in_words, rate

TRIAL_ON_CPU = 16
"""Images of a trial step without a GPU, to begin with."""
ROOM = 0.7
"""Share of the memory that a run may fill."""
QUICK = 0.3
"""Seconds below which a trial step is repeated with more images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run on this machine will need."""

    config: Config
    device: torch.device
    trial: Trial
    run_steps: int
    stages: Stages
    """Of a trial step, beside as many loader processes as the run will have."""
    needed: float
    """GiB that a micro-batch may take at most."""
    memory: float
    """GiB of the device, or of the machine."""
    free: float
    """GiB free on the disk of the current folder."""
    processes: int = 1
    """That the run will have: one per GPU, or parts of one CPU."""

    @property
    def step_seconds(self) -> float:
        """Of an optimizer step of the run; its processes work at once."""
        return self.config.train.batch / self.processes / self.trial.images * self.stages.total

    @property
    def together(self) -> float:
        """GiB that the processes of one memory need: each GPU has its own."""
        return self.needed * (1 if self.device.type == "cuda" else self.processes)

    @property
    def micro_batch(self) -> int:
        """Images of a micro-batch of one process."""
        return _micro_batch(self.config, self.processes)


def make_plan(config: Config, source: Images, processes: int = 1) -> Plan:
    """Train a few steps of real images and scale what they took; nothing is kept.

    With several `processes`, which share the batch, one is tried with the share of each: of the
    batch, and of the cores, as they would be started.
    """
    device = choose_device(config.system.device)
    config = with_pixels(config, device)
    micro = _micro_batch(config, processes)
    with threads(_threads(config, processes)):
        trial = _trial(config, source, device, micro)
    workers = choose_workers(config.system.workers, device.type == "cuda")
    return Plan(
        config=config,
        device=device,
        trial=trial,
        run_steps=derive(config, len(source), processes).run_steps,
        stages=trial.stages.beside(workers),
        needed=trial.memory * (micro / trial.images if device.type == "cpu" else 1),
        memory=device_memory(device) or limits.memory(),
        free=shutil.disk_usage(".").free / 2**30,
        processes=processes,
    )


def _micro_batch(config: Config, processes: int) -> int:
    """Images that one of the processes holds at a time."""
    return config.train.batch // config.train.accumulate // processes


def _threads(config: Config, processes: int) -> int:
    """Of each process: as set, or its share of the cores; 0: torch's choice."""
    return config.system.threads or (threads_of_each(processes) if processes > 1 else 0)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for products inside; 0: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trial(config: Config, source: Images, device: torch.device, micro: int) -> Trial:
    """A trial with enough images: small steps do not scale."""
    trial = run_trial(config, source, device, micro if device.type == "cuda" else TRIAL_ON_CPU)
    while trial.stages.training < QUICK and trial.images < min(micro, len(source)):
        trial = run_trial(config, source, device, 4 * trial.images)
    return trial


def lines(plan: Plan) -> Iterator[str]:
    """The plan in words."""
    trial, train, images = plan.trial, plan.config.train, counted(plan.trial.images, "image")
    yield f"device {plan.device}: {describe_device(plan.device)}; trial of {images} a step"
    pixels = plan.config.data.pixels
    yield f"views  {VIEWS_MADE[pixels]} (data.pixels={pixels})"
    duration = in_words(plan.step_seconds * plan.run_steps / 3600)
    yield (
        f"time   {plan.step_seconds:.2f} s a step, "
        f"{train.batch / plan.step_seconds:.1f} images/s; "
        f"{duration} for {counted(plan.run_steps, 'step')}"
    )
    if plan.processes > 1:
        yield f"note   {shared(plan)}"
    if plan.stages.load:
        yield f"load   {loaded(plan)}"
    yield f"pace   {paced(plan)}"
    more = f", at most about {plan.needed:.1f} GiB" if plan.needed > trial.memory else ""
    each = " in each process" if plan.processes > 1 else ""
    micro = f"a micro-batch is {plan.micro_batch}{each}{more}"
    took = "not known here" if math.isnan(trial.memory) else f"{trial.memory:.2f} GiB"
    yield f"memory {took} at {images}; {micro}"
    if plan.together > plan.memory:
        most = int(plan.micro_batch * ROOM * plan.memory / plan.together)
        parts = micro_batches(plan.micro_batch * train.accumulate, max(1, most))
        yield (
            f"note   more than the {plan.memory:.0f} GiB here: train.accumulate={parts} gives the "
            "same result in less memory"
        )
    kept = plan.config.checkpoint.keep
    yield (
        f"disk   {trial.checkpoint:.2f} GiB a checkpoint, {(kept + 1) * trial.checkpoint:.1f} GiB "
        f"for {kept} and the one being written; {plan.free:.0f} GiB free here"
    )
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
        f"{plan.stages.load}, so that these times are long; alone it would be about {rate(alone)} "
        "images/s"
    )


def paced(plan: Plan) -> str:
    """Which stage will set the pace, and how many loader processes would do."""
    stages, config = plan.stages, plan.config
    if (found := limit_of(stages, config)) is not None:
        return f"{found.evidence}. {found.advice}"
    use = f"{stages.workers} {'is' if stages.workers == 1 else 'are'} in use"
    would = f"{counted(stages.wanted, 'worker')} would do, {use}"
    return f"the step sets it: {rate(stages.uses)} images/s; {would}"


def plain(plan: Plan) -> dict[str, Any]:
    """For JSON: seconds, GiB."""
    found = limit_of(plan.stages, plan.config)
    return {
        "recipe": plan.config.recipe,
        "device": str(plan.device),
        "processes": plan.processes,
        "steps": plan.run_steps,
        "batch": plan.config.train.batch,
        "micro_batch": plan.micro_batch,
        "trial_images": plan.trial.images,
        "step_seconds": plan.step_seconds,
        "images_per_second": plan.config.train.batch / plan.step_seconds,
        "hours": plan.step_seconds * plan.run_steps / 3600,
        "limit": "step" if found is None else found.stage,
        "load": plan.stages.load,
        "trial_gib": _known(plan.trial.memory),
        "micro_batch_gib": _known(plan.needed),
        "checkpoint_gib": plan.trial.checkpoint,
        "free_gib": plan.free,
        "parameters": plan.trial.parameters,
    }


def _known(number: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(number) else number


def probed(plan: Plan, images: int) -> Forecast:
    """The same run by ten seconds of steps of random images, beside its formula."""
    with threads(_threads(plan.config, plan.processes)):
        machine = Machine(device=this_device(plan.device), devices=plan.processes)
        measured = probe(plan.config, plan.device)
    return Forecast(config=plan.config, machine=machine, images=images, probe=measured)
