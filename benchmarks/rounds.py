"""Interleaved rounds of several ways to do the same; rounds that differ much are no result."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

LIMIT = 0.10
"""Rounds of one way that differ by more than this share of their median say that something else
was running."""


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, in rotated order, after a round of each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    names = list(ways)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def verdict(seconds: Mapping[str, Sequence[float]]) -> str:
    """Empty where the rounds of every way agree within `LIMIT`, else why they are no result."""
    widest = max(map(spread, seconds.values()))
    return f"no result: rounds differ by {100 * widest:.0f} %" if widest > LIMIT else ""


def ratios(seconds: Mapping[str, Sequence[float]], above: str, below: str) -> list[float]:
    """Quotients of two ways, round by round."""
    return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]


def shown(values: Sequence[float]) -> str:
    """All rounds and their spread."""
    return f"{' '.join(f'{value:.3g}' for value in values)} (spread {100 * spread(values):.0f} %)"


def machine() -> str:
    """Processor, threads, library, and how waiting threads wait."""
    names = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    waiting = ", ".join(f"{name}={os.environ.get(name, 'not set')}" for name in names)
    return (
        f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {waiting}"
    )


def _processor() -> str:
    """The processor's name (Linux), else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
