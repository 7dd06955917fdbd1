"""What this device can do: large products and copies within a second, steps within ten."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ibot.config.schema import Config
from ibot.engine.random_steps import RandomSteps, StepSize, affordable
from ibot.engine.stages import BUSY
from ibot.engine.trial import build_update
from ibot.studies.forecast import Probe
from ibot.system import limits
from ibot.system.accelerators import Accelerator
from ibot.system.device import (
    describe_device,
    device_memory,
    has_native_bfloat16,
    prepared,
)
from ibot.system.load import Load
from ibot.system.machine import own_cores
from ibot.words import counted

SECONDS = 10.0
"""Of a probe, building the network not counted; slow steps may take longer."""
SIDE = 2048
"""Of the matrices whose product is timed."""
ROUNDS = 3
FEWEST = 3
"""Steps that count, however long they take."""
COPIED = 2**26
"""Numbers of a copy that is timed: far more than caches hold."""


def beside(load: Load) -> str:
    """What others took of the cores since the last reading, in words; empty if not worth one."""
    others = load.read()
    if others < BUSY:
        return ""
    cores = counted(own_cores(), "core")
    return f"other processes take {others:.0%} of {cores}, so that what was measured is slow"


def this_device(device: torch.device) -> Accelerator:
    """Its rates, measured in about a second."""
    native = has_native_bfloat16(device)
    rates = {
        kind: _products(device, getattr(torch, kind)) if wanted else 0.0
        for kind, wanted in (
            ("float32", True),
            ("bfloat16", native),
            ("float16", device.type == "cuda"),
        )
    }
    return Accelerator(
        name=describe_device(device),
        bfloat16=rates["bfloat16"],
        float16=rates["float16"],
        float32=rates["float32"],
        memory=device_memory(device) or limits.memory(),
        bandwidth=_copies(device),
        link=_NO_LINK,
        network=_NO_LINK,
        measured=True,
        gpu=device.type == "cuda",
    )


_NO_LINK = 10.0
"""GB/s to others of the machine, where nothing is known: through its memory."""


def _timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few rounds: what the device can do, whoever else works."""
    seconds = []
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _products(device: torch.device, kind: torch.dtype) -> float:
    """TFLOP/s of a large product."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(kind) for _ in range(2))
    return 2 * SIDE**3 / _timed(lambda: a @ b, device) / 1e12


def _copies(device: torch.device) -> float:
    """TB/s of a copy, reading and writing counted."""
    a = torch.ones(COPIED, device=device)
    b = torch.empty_like(a)
    return 2 * 4 * COPIED / _timed(lambda: b.copy_(a), device) / 1e12


def probe(config: Config, micro_batch: int, seconds: float = 0.0) -> Probe:
    """Steps of random images of this network, in the state of a training, for so long.

    They are the run's own, of `train.accumulate` micro-batches of so many images, or smaller ones
    where that takes too long (`affordable`). No views are made beside them. seconds: 0 for
    `SECONDS`; building the network is not counted.
    """
    system, seconds = config.system, seconds or SECONDS
    with prepared(system.device, system.threads, system.deterministic) as device:
        torch.manual_seed(0)
        steps = RandomSteps(build_update(config, device), config, device)
        began = time.perf_counter()
        size = affordable(steps.seconds, StepSize(micro_batch, config.train.accumulate))
        steps.seconds(size)  # what is kept from step to step is there from now on
        took = []
        while len(took) < FEWEST or time.perf_counter() - began < seconds:
            took.append(steps.seconds(size))
    return Probe(
        images=size.images,
        step_seconds=statistics.median(took),
        steps=len(took),
    )
