"""Time and memory of a training step against the published arithmetic, interleaved.

    python -m benchmarks.step [--cases b c] [--rounds 7] [--precision float32 bfloat16]

Random images; masks from our block generator; drop path 0.1; every variant has its own weights and
optimizer and runs once per round in rotated order. Prints every round, their spread and the table
of docs/results.md, in about eight minutes on two cores; rounds that differ by more than 10 % are
called no result, as something else was running. Appends rows to benchmarks/results/step.jsonl.

Memory is told twice, each from a process that runs one variant alone: the resident peak, which
includes what the allocator keeps and differs from run to run, so it is taken three times; and the
peak of what tensors hold beyond weights and optimizer state, which the profiler counts and which is
the same in every run. `--memory CASE VARIANT` and `--tensors CASE VARIANT` print one of them.
"""

from __future__ import annotations

import argparse
import json
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
from benchmarks.rounds import interleaved, machine, ratios, shown, spread, verdict
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.masks import make_masks
from ibot.engine.optimizer import build_optimizer
from ibot.engine.update import Update
from ibot.method.model import StudentTeacher
from ibot.system.device import autocast
from ibot.types import Batch, StepValues

VALUES = StepValues(
    lr=1e-4,
    weight_decay=0.04,
    momentum=0.996,
    teacher_temp=0.05,
    patch_temp=0.05,
    freeze_last_layer=False,
)
CASES = {
    "a": ["train.batch=4"],
    "b": ["train.batch=4", "augment.num_local=0"],
    "c": [
        *("train.batch=16", "head.out_dim=4096", "head.patch_out_dim=4096"),
        *("augment.global_size=32", "augment.local_size=16", "augment.num_local=4"),
        *("model.width=192", "model.heads=3", "model.patch=4"),
    ],
}
VARIANTS = ("published", "float32", "bfloat16")
MEMORY_RUNS = 3


def make_batch(config: Config) -> Batch:
    """Random views and block masks whose share of hidden patches is near the mean of many draws."""
    g = torch.Generator().manual_seed(0)
    augment, size = config.augment, config.train.batch
    grid = (
        augment.global_size[0] // config.model.patch,
        augment.global_size[1] // config.model.patch,
    )
    draws = [make_masks(config.mask, grid, 2, seed, 0, np.arange(size)) for seed in range(40)]
    masks = min(draws, key=lambda m: abs(m.map.float().mean().item() - 0.149))
    global_views = torch.randn(2, size, 3, *augment.global_size, generator=g)
    local_views = (
        torch.randn(augment.num_local, size, 3, *augment.local_size, generator=g)
        if augment.num_local
        else None
    )
    return Batch(global_views, local_views, masks, np.arange(size))


def make_variant(config: Config, name: str, batch: Batch):
    """A function that runs one step."""
    torch.manual_seed(0)
    if name == "published":
        return partial(PublishedStep(config).step, batch, VALUES)
    model = StudentTeacher(config)
    precision = partial(autocast, torch.device("cpu"), getattr(torch, name))
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        autocast=precision,
    )
    return partial(update.step, [batch], VALUES)


def run_case(case: str, rounds: int, variants: tuple[str, ...]) -> list[dict]:
    """Interleaved rounds of all variants of a case, one row for each."""
    config = apply(Config(), CASES[case])
    batch = make_batch(config)
    steps = {name: make_variant(config, name, batch) for name in variants}
    seconds = interleaved(steps, rounds)
    rows = []
    for name in variants:
        faster = ratios(seconds, "published", name)
        median = statistics.median(seconds[name])
        row = {
            "case": case,
            "variant": name,
            "median_seconds": median,
            "images_per_second": config.train.batch / median,
        }
        row |= {
            "published_over_this": statistics.median(faster),
            "ratios": [round(x, 2) for x in faster],
        }
        row |= {
            "seconds": [round(x, 4) for x in seconds[name]],
            "spread": round(spread(seconds[name]), 3),
        }
        pair = {kind: seconds[kind] for kind in ("published", name)}
        rows.append({**row, "verdict": verdict(pair)})
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


def peak_tensors(case: str, name: str) -> float:
    """Most MiB that tensors hold at once in the second step, beyond what they hold before it."""
    config = apply(Config(), CASES[case])
    step = make_variant(config, name, make_batch(config))
    step()
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


def alone(what: str, case: str, name: str) -> float:
    """What `--memory` or `--tensors` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", f"--{what}", case, name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["b", "c"], choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--precision", nargs="+", default=["float32", "bfloat16"], choices=VARIANTS[1:]
    )
    parser.add_argument(
        "--memory", nargs=2, metavar=("CASE", "VARIANT"), help="print the resident peak in MiB"
    )
    parser.add_argument(
        "--tensors", nargs=2, metavar=("CASE", "VARIANT"), help="print the peak of tensors in MiB"
    )
    options = parser.parse_args()
    if options.memory or options.tensors:
        peak = peak_memory(*options.memory) if options.memory else peak_tensors(*options.tensors)
        print(f"{peak:.0f}")
        return
    print(machine())
    rows = [
        row
        for case in options.cases
        for row in run_case(case, options.rounds, ("published", *options.precision))
    ]
    for row in rows:
        name = f"case {row['case']} {row['variant']}"
        print(
            f"{name:20} seconds {shown(row['seconds'])}; published : this {shown(row['ratios'])} "
            f"{row['verdict']}"
        )
    for row in rows:
        row["peak_mib"] = [alone("memory", row["case"], row["variant"]) for _ in range(MEMORY_RUNS)]
        row["tensors_mib"] = alone("tensors", row["case"], row["variant"])
    print(f"\n{table(rows)}")
    out = Path(__file__).parent / "results" / "step.jsonl"
    out.parent.mkdir(exist_ok=True)
    with out.open("a") as file:
        for row in rows:
            file.write(
                json.dumps({**row, "machine": machine(), "when": time.strftime("%Y-%m-%d")}) + "\n"
            )


def table(rows: list[dict]) -> str:
    """The rows as in docs/results.md; no figures of time where the rounds differ."""
    lines = [
        "| case | variant | seconds a step | images/s | published : this | spread | resident MiB "
        "| tensors MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = [
            f"{row['median_seconds']:.2f}",
            f"{row['images_per_second']:.3g}",
            f"{row['published_over_this']:.2f}",
        ]
        if row["verdict"]:
            times = [row["verdict"], "-", "-"]
        peak = f"{min(row['peak_mib']):.0f} to {max(row['peak_mib']):.0f}"
        cells = [
            row["case"],
            row["variant"],
            *times,
            f"{100 * row['spread']:.0f} %",
            peak,
            f"{row['tensors_mib']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
