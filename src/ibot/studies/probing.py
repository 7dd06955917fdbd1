"""What this device can do: large products and copies within a second, steps within ten."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ibot.config.schema import Config
from ibot.data.depth import branch_factors
from ibot.data.masks import make_masks, with_visible
from ibot.engine.loop import mask_grid
from ibot.engine.stages import BUSY
from ibot.engine.trial import VALUES, build_update
from ibot.kernels.choice import using
from ibot.studies.forecast import Probe
from ibot.system import limits
from ibot.system.accelerators import Accelerator
from ibot.system.device import (
    choose_device,
    describe_device,
    device_memory,
    has_native_bfloat16,
)
from ibot.system.load import Load
from ibot.system.machine import own_cores
from ibot.types import Batch
from ibot.words import counted

SECONDS = 10.0
"""Of a probe, building the network not counted; a slow step may take longer."""
SIDE = 2048
"""Of the matrices whose product is timed."""
ROUNDS = 3
SMALL, LARGE = 2, 8
"""Images of the two kinds of steps, multiplied where a step is too short to be timed."""
SHORT = 0.05
"""Seconds of a small step, below which more images are taken."""
DRAWS = 64
"""Images whose masks are drawn, to choose some of the usual size."""
COPIED = 2**26
"""Numbers of a copy that is timed: far more than caches hold."""


def measured_here(name: str) -> tuple[Accelerator, str]:
    """The device of that name, and in words what others took of the cores meanwhile, or nothing."""
    load = Load()
    found = this_device(choose_device(name))
    others = load.read()
    if others < BUSY:
        return found, ""
    cores = counted(own_cores(), "core")
    return found, f"other processes take {others:.0%} of {cores}, so that these rates are low"


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


def probe(config: Config, device: torch.device, seconds: float = 0.0) -> Probe:
    """Steps of random images of this network, few and four times as many in turn, for so long.

    What a step takes in any case and what each image adds are the line through both medians.
    seconds: 0 for `SECONDS`.
    """
    seconds = seconds or SECONDS
    torch.manual_seed(0)
    step = _stepper(config, device)
    small, large = SMALL, LARGE
    most = max(1, config.train.batch // config.train.accumulate)
    step(small)  # the first step allocates
    while _timed_step(step, small) < SHORT and 4 * large <= most:
        small, large = 4 * small, 4 * large
        step(small)
    step(large)
    took: dict[int, list[float]] = {small: [], large: []}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or not took[large]:
        for images, known in took.items():
            known.append(_timed_step(step, images))
    few, many = (statistics.median(took[images]) for images in (small, large))
    per_image = max((many - few) / (large - small), 0.5 * many / large)
    return Probe(
        fixed=max(0.0, many - large * per_image),
        per_image=per_image,
        seconds=time.perf_counter() - began,
        steps=sum(map(len, took.values())),
    )


def _timed_step(step: Callable[[int], object], images: int) -> float:
    began = time.perf_counter()
    step(images)
    return time.perf_counter() - began


def _stepper(config: Config, device: torch.device) -> Callable[[int], object]:
    """A function that takes an optimizer step of so many random images."""
    update = build_update(config, device)
    rates = update.model.student.backbone.drop_rates
    batches: dict[int, Batch] = {}

    def step(images: int) -> None:
        if images not in batches:
            batches[images] = random_batch(config, images, device, rates)
        with using(config.system.kernels):
            update.step([batches[images]], VALUES, observe=False)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def random_batch(
    config: Config, images: int, device: torch.device, rates: Sequence[float] = ()
) -> Batch:
    """Views of noise, and masks as they are drawn after `mask.start`.

    rates: of stochastic depth, whose draws come with a batch (`Backbone.drop_rates`).
    """
    augment, numbers = config.augment, np.arange(images)
    # Of few images the share of hidden patches varies much: the draw nearest to the mean.
    mean = sum(ratio for ratio, _ in config.mask.ratio) / len(config.mask.ratio)
    draws = [
        make_masks(config.mask, mask_grid(config), augment.num_global, seed, 0, numbers)
        for seed in range(max(1, DRAWS // images))
    ]
    masks = min(draws, key=lambda drawn: abs(drawn.map.float().mean().item() - mean))
    if config.method.visible_weight:
        masks = with_visible(masks)
    channels = len(config.model.channels)
    views = [
        torch.randn(count, images, channels, *size, device=device) if count else None
        for count, size in (
            (augment.num_global, augment.global_size),
            (augment.num_local, augment.local_size),
        )
    ]
    assert views[0] is not None
    num_views = augment.num_global + augment.num_local
    drop = branch_factors(rates, num_views, 0, 0, numbers).to(device) if rates else None
    return Batch(views[0], views[1], masks.each(lambda t: t.to(device)), numbers, drop=drop)
