"""A few real steps on the device at hand, to say what a run will need: time, memory, disk."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from ibot.config.schema import Config
from ibot.data.loader import MicroBatches
from ibot.data.sets.images import Images
from ibot.engine.blocks import prepare_blocks
from ibot.engine.checkpoint import checkpoint_bytes
from ibot.engine.loop import mask_grid
from ibot.engine.meter import StageMeter
from ibot.engine.optimizer import build_optimizer
from ibot.engine.stages import Stages
from ibot.engine.transfer import ahead
from ibot.engine.update import Update
from ibot.kernels.choice import using
from ibot.method.model import StudentTeacher
from ibot.system.device import autocast, choose_precision
from ibot.system.portable import peak_memory
from ibot.system.stopwatch import Stopwatch
from ibot.types import Batch, StepValues, UndrawnBatch

STEPS = 3
VALUES = StepValues(
    lr=1e-4,
    weight_decay=0.04,
    momentum=0.996,
    teacher_temp=0.04,
    patch_temp=0.04,
    freeze_last_layer=False,
)
"""What a step is measured with, here and in benchmarks: it takes as long with others."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured."""

    images: int
    """Images of one trial step."""
    stages: Stages
    """Of these images: made by one process, then moved to the device and trained on."""
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


def run_trial(config: Config, source: Images, device: torch.device, images: int) -> Trial:
    """Train `STEPS` steps of at most `images` real images; nothing is kept."""
    images = min(images, config.train.batch // config.train.accumulate, len(source))
    train = replace(config.train, batch=images, accumulate=1, lengths=(), lists=())
    config = replace(config, train=train)
    torch.manual_seed(0)
    update = build_update(config, device)
    model = update.model
    rates = model.student.backbone.drop_rates
    batches = MicroBatches(config, source, mask_grid(config), 0, 1, rates)
    meter, measured = StageMeter(device), []
    steps = ahead(_read(batches, pin=device.type == "cuda"), config, device, meter.measure)
    queued = []
    for _ in range(STEPS + 1):
        began, watch = time.perf_counter(), Stopwatch()
        step = next(steps)
        came = time.perf_counter()
        on_device = step.on_device()
        with meter.measure("step"), using(config.system.kernels):
            update.step(on_device, VALUES)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
        meter.observe(step.read, seconds, came - began)
        queued.append(min(1.0, watch.queued() / seconds))
        measured.append(meter.read())
    return Trial(
        images=images,
        stages=Stages.median(measured[1:]),  # the first step warms up
        memory=_peak(device),
        checkpoint=checkpoint_bytes(model, update.optimizer) / 2**30,
        queued=statistics.median(queued[1:]),
        parameters=sum(p.numel() for p in model.student.parameters() if p.requires_grad),
    )


def _read(batches: MicroBatches, pin: bool) -> Iterator[list[Batch | UndrawnBatch]]:
    """Steps of one micro-batch each. Raises the DataError of one that cannot be made."""
    for number in itertools.count():
        batch = batches[number]
        if isinstance(batch, Exception):
            raise batch
        yield [batch.pin_memory() if pin else batch]


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        # Not what was given out at a time: views are made on a stream that keeps its own memory.
        return torch.cuda.max_memory_reserved(device) / 2**30
    return peak_memory()
