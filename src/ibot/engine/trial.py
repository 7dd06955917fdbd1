"""Real steps on the device at hand, to say what a run will need: time, memory, disk."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ibot.config.schema import Config
from ibot.data.loader import Loader
from ibot.data.sets.images import Images
from ibot.engine.blocks import prepare_blocks
from ibot.engine.checkpoint import checkpoint_bytes
from ibot.engine.loop import mask_grid
from ibot.engine.meter import StageMeter
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import VALUES, RandomSteps, StepSize, affordable
from ibot.engine.stages import Stages
from ibot.engine.transfer import ReadStep, ahead
from ibot.engine.update import Update
from ibot.kernels.choice import using
from ibot.method.model import StudentTeacher
from ibot.system.device import autocast, choose_precision
from ibot.system.portable import peak_memory
from ibot.system.stopwatch import Stopwatch

SECONDS = 5.0
"""Of the steps that count."""
FEWEST, MOST = 3, 100
"""Steps that count, however long or short they are."""
WARM, WARM_SECONDS = 5, 2.0
"""Steps before these, or seconds of them: loader processes start and read ahead, memory grows,
products are built for their sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was measured."""

    size: StepSize
    """Of a step of the trial."""
    stages: Stages
    """Means over its steps, with the loader processes of a run."""
    steps: int
    """That count."""
    memory: float
    """Peak GiB: of a GPU what was kept, with views on a stream of their own as in a run; of the
    process on a CPU, nan where the system does not tell."""
    checkpoint: float
    """GiB of one checkpoint."""
    parameters: int
    """Trained parameters, head included."""
    queued: float = 0.0
    """Share of the time of a step in which the process could have worked, but others had the
    cores, 0..1."""


def build_update(config: Config, device: torch.device) -> Update:
    """Steps of fresh networks in this process alone, prepared as those of a run."""
    model = StudentTeacher(config).to(device)
    with using(config.system.kernels):
        prepare_blocks(model, config.system, device)
    precision = choose_precision(config.train.precision, device)
    return Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        autocast=partial(autocast, device, precision),
    )


def run_trial(config: Config, source: Images, device: torch.device, whole: StepSize) -> Trial:
    """Train as a run does, loader processes beside it, for some seconds; nothing is kept.

    whole: a step of the run in one process; where that takes too long (`affordable`), or the images
    are too few for it, smaller ones are taken. Call it in the state of a training
    (`ibot.system.device.prepared`).
    """
    torch.manual_seed(0)
    update = build_update(config, device)
    model = update.model
    if len(source) < whole.images:
        whole = StepSize(min(whole.micro_batch, len(source)))
    size = affordable(RandomSteps(update, config, device).seconds, whole)
    train = replace(config.train, batch=size.images, accumulate=size.parts, lengths=(), lists=())
    config = replace(config, train=train)
    rates = model.student.backbone.drop_rates
    loader = Loader(config, source, grid=mask_grid(config), drop_rates=rates)
    meter = StageMeter(device, loader.workers)
    numbers = itertools.count()

    def take(steps: Iterator[ReadStep]) -> float:
        """A step; returns seconds of waiting for a core."""
        began, watch = time.perf_counter(), Stopwatch()
        step = next(steps)
        came = time.perf_counter()
        on_device = step.on_device()
        # As often as a run looks closer (`engine/health.py`).
        observe = next(numbers) % max(1, config.log.every // 5) == 0
        with meter.measure("step"):
            update.step(on_device, VALUES, observe=observe)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        meter.observe(step.read, time.perf_counter() - began, came - began)
        return watch.queued()

    reading: Any = iter(loader)  # a generator: its end ends the loader processes
    with closing(reading), using(config.system.kernels):
        steps = ahead(reading, config, device, meter.measure)
        began = time.perf_counter()
        for _ in range(WARM):
            take(steps)
            if time.perf_counter() - began > WARM_SECONDS:
                break
        meter.read()
        queued, began = [], time.perf_counter()
        while len(queued) < FEWEST or (
            len(queued) < MOST and time.perf_counter() - began < SECONDS
        ):
            queued.append(take(steps))
    stages = meter.read()
    return Trial(
        size=size,
        stages=stages,
        steps=len(queued),
        memory=_peak(device),
        checkpoint=checkpoint_bytes(model, update.optimizer) / 2**30,
        queued=min(1.0, statistics.fmean(queued) / stages.total),
        parameters=sum(p.numel() for p in model.student.parameters() if p.requires_grad),
    )


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        # Not what was given out at a time: views are made on a stream that keeps its own memory.
        return torch.cuda.max_memory_reserved(device) / 2**30
    return peak_memory()
