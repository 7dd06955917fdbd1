"""The most memory that a step takes, as the system and as torch's profiler count it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def held_at_most(step: Callable[[], object]) -> float:
    """Most MiB of new tensors at once in the second `step`; what the first left is not counted, nor
    when it is freed.
    """
    step()
    gc.collect()  # what an earlier measurement left would be freed inside, and counted
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = np.cumsum(
        [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    )
    return float(held.max()) / 2**20


def resident_at_most(make: Callable[[], Callable[[], object]]) -> float:
    """Peak resident MiB of the second step above what imports take; what is made counts (Linux)."""
    base = _status("VmRSS")
    step = make()
    step()
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return _status("VmHWM") - base


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))
