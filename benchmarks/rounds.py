"""Interleaved rounds of several ways to do the same; rounds that differ much are no result."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ibot.system.load import Load
from ibot.system.portable import cores

LIMIT = 0.10
"""Rounds of one way that differ by more than this share of their median say that something else
was running."""


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, others: list[float] | None = None
) -> dict[str, list[float]]:
    """Seconds of each way in each round, in rotated order, after a round of each to warm up.

    others: gets the cores that other processes took in each round, where the system tells.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    names, load = list(ways), Load()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
        if others is not None:
            others.append(round(load.read() * len(cores()), 2))
    return seconds


def about(benchmark: str) -> dict[str, str]:
    """What a record says of itself: which benchmark, where, when, of which commit, by which words.

    A commit with changes that were not committed says so.
    """
    command = ["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]
    return {
        "benchmark": benchmark,
        "command": shlex.join(command),
        "commit": commit(),
        "machine": machine(),
        "when": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """Of the code that is measured; empty where git does not tell."""
    place = Path(__file__).parent

    def asked(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", place, *words], capture_output=True, text=True)
        except OSError:  # there is no git
            return ""
        return done.stdout.strip()

    changed = asked("status", "--porcelain", "--untracked-files=no", ":(top)src")
    return asked("rev-parse", "--short", "HEAD") + (" and changes" if changed else "")


def write_record(file: Path, benchmark: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A record that `benchmarks.report` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {**about(benchmark), "rows": [dict(row) for row in rows]}
    file.write_text(json.dumps(whole, indent=1) + "\n")


def append_row(file: Path, benchmark: str, row: Mapping[str, object]) -> None:
    """A line of a record that grows while it is measured; `benchmarks.report` reads it too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = about(benchmark)
    del whole["benchmark"]  # the name of the file says it
    with file.open("a") as out:
        out.write(json.dumps({**row, **whole}) + "\n")


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


PRODUCT = 2048
"""Side of the matrices whose product tells what the machine can do at the moment."""


def product_rate(kind: torch.dtype, rounds: int = 3) -> float:
    """GFLOP/s of a large product on the CPU, the fastest of a few."""
    a, b = (torch.randn(PRODUCT, PRODUCT).to(kind) for _ in range(2))
    seconds = interleaved({"product": lambda: a @ b}, rounds)["product"]
    return 2 * PRODUCT**3 / min(seconds) / 1e9


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
