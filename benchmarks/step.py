"""Time and memory of one training step against the published arithmetic, interleaved in one process.

    python -m benchmarks.step [--cases b c] [--rounds 5] [--precision float32 bfloat16]

Random images; masks from our block generator; drop path 0.1; every variant has its own weights and optimizer and runs
once per round in rotated order. Prints medians and the median of the per-round ratios; appends rows to
benchmarks/results/step.jsonl. With --memory CASE VARIANT it runs one variant alone and prints its peak memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.published_step import PublishedStep
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.masks import make_masks
from ibot.engine.device import autocast
from ibot.engine.optimizer import build_optimizer
from ibot.engine.update import Update
from ibot.method.model import StudentTeacher
from ibot.types import Batch, StepValues

VALUES = StepValues(1e-4, 0.04, 0.996, 0.05, 0.05, False)
CASES = {
    "a": ["train.batch=4"],
    "b": ["train.batch=4", "augment.num_local=0"],
    "c": ["train.batch=16", "augment.global_size=32", "augment.local_size=16", "augment.num_local=4", "model.width=192",
          "model.heads=3", "model.patch=4", "head.out_dim=4096", "head.patch_out_dim=4096"],
}  # fmt: skip
VARIANTS = ("published", "float32", "bfloat16")


def make_batch(config: Config) -> Batch:
    """Random views and block masks whose share of hidden patches is near the mean of many draws."""
    g = torch.Generator().manual_seed(0)
    augment, size = config.augment, config.train.batch
    grid = (augment.global_size[0] // config.model.patch, augment.global_size[1] // config.model.patch)
    draws = [make_masks(config.mask, grid, 2, seed, 0, np.arange(size)) for seed in range(40)]
    masks = min(draws, key=lambda m: abs(m.map.float().mean().item() - 0.149))
    global_views = torch.randn(2, size, 3, *augment.global_size, generator=g)
    local_views = (
        torch.randn(augment.num_local, size, 3, *augment.local_size, generator=g) if augment.num_local else None
    )
    return Batch(global_views, local_views, masks, np.arange(size))


def make_variant(config: Config, name: str, batch: Batch):
    """A function that runs one step."""
    torch.manual_seed(0)
    if name == "published":
        return partial(PublishedStep(config).step, batch, VALUES)
    model = StudentTeacher(config)
    precision = partial(autocast, torch.device("cpu"), getattr(torch, name))
    update = Update(model, model.student, build_optimizer(model.student, config.optim), config, autocast=precision)
    return partial(update.step, [batch], VALUES)


def run_case(case: str, rounds: int, variants: tuple[str, ...]) -> list[dict]:
    """Interleaved rounds of all variants of a case."""
    config = apply(Config(), CASES[case])
    batch = make_batch(config)
    steps = {name: make_variant(config, name, batch) for name in variants}
    for step in steps.values():
        step()  # allocates optimizer state
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for r in range(rounds):
        for name in variants[r % len(variants) :] + variants[: r % len(variants)]:
            began = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - began)
    rows = []
    for name in variants:
        ratios = [p / s for p, s in zip(seconds["published"], seconds[name], strict=True)]
        rows.append(
            {
                "case": case, "variant": name, "median_seconds": statistics.median(seconds[name]),
                "images_per_second": config.train.batch / statistics.median(seconds[name]),
                "published_over_this": statistics.median(ratios), "ratios": [round(x, 2) for x in ratios],
            }
        )  # fmt: skip
    return rows


def peak_memory(case: str, name: str) -> float:
    """Peak resident MiB of the second step above what imports take (Linux)."""
    config = apply(replace(Config()), CASES[case])
    base = _status("VmRSS")
    step = make_variant(config, name, make_batch(config))
    step()
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return _status("VmHWM") - base


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["b", "c"], choices=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "VARIANT"))
    options = parser.parse_args()
    if options.memory:
        print(f"{peak_memory(*options.memory):.0f}")
        return
    out = Path(__file__).parent / "results" / "step.jsonl"
    out.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(machine)
    for case in options.cases:
        for row in run_case(case, options.rounds, VARIANTS):
            command = [sys.executable, "-m", "benchmarks.step", "--memory", case, row["variant"]]
            row["peak_mib"] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"case {case} {row['variant']:10} {row['median_seconds']:.3f} s  {row['images_per_second']:6.2f} im/s  "
                f"published : this {row['published_over_this']:.2f}  {row['ratios']}  peak {row['peak_mib']:.0f} MiB",
                flush=True,
            )
            with out.open("a") as file:
                file.write(json.dumps({**row, "machine": machine, "when": time.strftime("%Y-%m-%d")}) + "\n")


if __name__ == "__main__":
    main()
