"""The most memory that a step takes, as the system and as torch's profiler count it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import torch
from torch._C._profiler import _ExtraFields_Allocation


def held_at_most(step: Callable[[], object]) -> float:
    """Most MiB of new tensors at once in the second `step`; what the first left is not counted, nor
    when it is freed.
    """
    step()
    gc.collect()  # so that it does not come by chance inside
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    # The profiler keeps sizes by address and does not see what is freed between two measurements:
    # another block at such an address, freed in this step, is reported with the size of the old
    # one. So only blocks that this step took count when they are freed.
    sizes: dict[int, int] = {}
    held = most = 0
    for block in _blocks(profile):
        if block.alloc_size > 0:
            sizes[block.ptr] = block.alloc_size
            held += block.alloc_size
        else:
            held -= sizes.pop(block.ptr, 0)
        most = max(most, held)
    return most / 2**20


def _blocks(profile: torch.profiler.profile) -> list[_ExtraFields_Allocation]:
    """What was taken and given back, in order of time."""
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    waiting, found = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if isinstance(event.extra_fields, _ExtraFields_Allocation):
            found.append((event.start_time_ns, event.extra_fields))
    return [fields for _, fields in sorted(found, key=itemgetter(0))]


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
