"""`ibot plan`: what a run will do and need, from the settings, the data and a short trial."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from pathlib import Path

from ibot.words import counted

TRIAL_ON_CPU = 16
"""Images of a trial step without a GPU, to begin with."""
ROOM = 0.7
"""Share of the memory that a run may fill."""
QUICK = 0.3
"""Seconds below which a trial step is repeated with more images."""


def run(options: argparse.Namespace) -> int:
    """Print the plan; train a few steps for it, and keep nothing."""
    from ibot.cli.train import describe, prepare
    from ibot.config.resolve import derive
    from ibot.data.loader import choose_workers
    from ibot.engine.trial import run_trial
    from ibot.system.device import choose_device, describe_device, device_memory

    config, source, notes = prepare(options)
    derived = derive(config, len(source))
    describe(config, derived, source, Path(options.run_folder or "runs/..."), 1, print)
    for note in notes:
        print(f"note   {note}")
    device = choose_device(config.system.device)
    micro = config.train.batch // config.train.accumulate
    trial = run_trial(config, source, device, micro if device.type == "cuda" else TRIAL_ON_CPU)
    while trial.step_seconds < QUICK and trial.images < min(micro, len(source)):
        trial = run_trial(config, source, device, 4 * trial.images)  # small steps do not scale
    scale = config.train.batch / trial.images
    workers = choose_workers(config.system.workers, device.type == "cuda")
    reading = trial.data_seconds / max(1, workers)
    # Workers read beside the step; without any the step waits for the whole of it.
    step = scale * (max(trial.step_seconds, reading) if workers else trial.step_seconds + reading)
    hours = step * derived.run_steps / 3600
    print(
        f"device {device}: {describe_device(device)}; trial of {counted(trial.images, 'image')} a "
        "step"
    )
    print(
        f"time   {step:.2f} s a step, {config.train.batch / step:.1f} images/s; {_hours(hours)} "
        "for "
        f"{counted(derived.run_steps, 'step')}"
    )
    if reading > trial.step_seconds:
        images = counted(trial.images, "image")
        print(
            f"note   reading sets the pace: {trial.data_seconds:.2f} s for {images} in one process"
        )
    needed = trial.memory * (micro / trial.images if device.type == "cpu" else 1)
    more = f", at most about {needed:.1f} GiB" if needed > trial.memory else ""
    print(
        f"memory {trial.memory:.2f} GiB at {counted(trial.images, 'image')}; a micro-batch is "
        f"{micro}{more}"
    )
    total = (
        device_memory(device) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    )
    if needed > total:
        parts = config.train.accumulate * 2 ** math.ceil(math.log2(needed / (ROOM * total)))
        print(
            f"note   more than the {total:.0f} GiB here: train.accumulate={parts} gives the same "
            "result in less memory"
        )
    kept = config.checkpoint.keep + 1
    free = shutil.disk_usage(".").free / 2**30
    print(
        f"disk   {trial.checkpoint:.2f} GiB a checkpoint, {kept * trial.checkpoint:.1f} GiB for "
        f"{kept - 1} and the one "
        f"being written; {free:.0f} GiB free here"
    )
    print(f"size   {trial.parameters:,} trained parameters")
    return 0


def _hours(hours: float) -> str:
    minutes = round(hours * 60)
    if minutes == 0:
        return "less than a minute"
    if hours < 1.5:
        return f"about {counted(minutes, 'minute')}"
    return f"about {hours:.0f} hours" if hours < 72 else f"about {hours / 24:.0f} days"
