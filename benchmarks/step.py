"""Time and memory of a training step against the published arithmetic, interleaved.

    python -m benchmarks.step [--cases a b c] [--rounds 7] [--precision float32 bfloat16] [--each]
                              [--json FILE]

Random images; masks from our block generator; drop path 0.1; every variant has its own weights and
optimizer and runs once per round in rotated order. Cases: a, ViT-S/16 with two views of 224 and ten
of 96 pixels, batch 4; b, the same without the ten; c, ViT-T/4 on 32 pixels, batch 16. Prints every
round, their spread and the table of docs/performance.md, which `python -m benchmarks.report` makes
from the records; about eight minutes for b and c on two cores.

Rounds in which other processes took more than a tenth of a core are left out where three others
remain. Rounds that differ by more than 10 % are called no result: something else was running.

`--each` adds what the fast paths are worth: the plain forms alone (`system.kernels=reference`), and
for each path that ran the step without it.

Memory is told twice, each from a process that runs one variant alone: the resident peak, which
includes what the allocator keeps and differs from run to run, so it is taken three times; and the
peak of what tensors hold beyond weights and optimizer state, which the profiler counts and which is
the same in every run. `--memory CASE VARIANT` and `--tensors CASE VARIANT` print one of them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.peaks import held_at_most, resident_at_most
from benchmarks.published_step import PublishedStep
from benchmarks.report import table
from benchmarks.rounds import (
    interleaved,
    machine,
    product_rate,
    ratios,
    shown,
    spread,
    verdict,
    write_record,
)
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.masks import make_masks
from ibot.engine.random_steps import VALUES
from ibot.engine.trial import build_update
from ibot.engine.update import Update
from ibot.kernels.choice import Mode, using
from ibot.method.flops import published_flops, step_flops
from ibot.types import Batch

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
PLAIN, WITHOUT = " reference", " without "
"""Behind a precision: the plain forms alone; and all but one fast path, whose name follows."""
MEMORY_RUNS = 3
FOREIGN, ENOUGH = 0.1, 3
"""Cores that others may take in a round that counts, and how many such rounds there must be."""


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


def make_variant(config: Config, name: str, batch: Batch) -> Callable[[], object]:
    """A function that runs one step."""
    torch.manual_seed(0)
    if name == "published":
        # Our fast paths must not serve what they are compared with.
        mode, without, run = "reference", (), partial(PublishedStep(config).step, batch, VALUES)
    else:
        kind, mode, without = parted(name)
        run = partial(make_update(config, kind).step, [batch], VALUES)

    def step() -> object:
        with using(mode, without):
            return run()

    return step


def make_update(config: Config, kind: str) -> Update:
    """Our step, in a precision."""
    return build_update(apply(config, [f"train.precision={kind}"]), torch.device("cpu"))


def parted(name: str) -> tuple[str, Mode, tuple[str, ...]]:
    """Precision, `system.kernels`, and the fast paths that are switched off."""
    if name.endswith(PLAIN):
        return name.removesuffix(PLAIN), "reference", ()
    kind, _, path = name.partition(WITHOUT)
    return kind, "auto", (path,) if path else ()


def paths_of(case: str, kind: str) -> list[str]:
    """Names of the fast paths that a step of this case takes."""
    config = apply(Config(), CASES[case])
    update, batch = make_update(config, kind), make_batch(config)
    with using("auto") as choices:
        update.step([batch], VALUES)
    return list(choices.taken)


def run_case(case: str, rounds: int, variants: tuple[str, ...]) -> list[dict]:
    """Interleaved rounds of all variants of a case, one row for each."""
    config = apply(Config(), CASES[case])
    batch = make_batch(config)
    steps = {name: make_variant(config, name, batch) for name in variants}
    kinds = sorted({kind_of(name) for name in variants})
    before = {kind: product_rate(getattr(torch, kind)) for kind in kinds}
    others: list[float] = []
    seconds = interleaved(steps, rounds, others)
    rates = {kind: max(before[kind], product_rate(getattr(torch, kind))) for kind in kinds}
    quiet = [i for i, cores in enumerate(others) if cores <= FOREIGN]
    if len(quiet) >= ENOUGH:
        seconds = {name: [took[i] for i in quiet] for name, took in seconds.items()}
    masked = len(batch.masks.index) / config.train.batch
    work = {
        name: (published_flops(config) if name == "published" else step_flops(config, masked)).total
        for name in variants
    }
    rows = []
    for name in variants:
        median, faster = statistics.median(seconds[name]), ratios(seconds, "published", name)
        reached = work[name] * config.train.batch / median / 1e9
        rows.append(
            {
                "case": case,
                "variant": name,
                "seconds": round(median, 4),
                "images_per_second": round(config.train.batch / median, 2),
                "ratio": round(statistics.median(faster), 3),
                "ratios": [round(x, 2) for x in faster],
                "rounds": [round(x, 4) for x in seconds[name]],
                "spread": round(spread(seconds[name]), 3),
                "verdict": verdict({kind: seconds[kind] for kind in ("published", name)}),
                "others": others,
                "gflops": round(reached, 1),
                "product_gflops": round(rates[kind_of(name)], 1),
                "share": round(reached / rates[kind_of(name)], 3),
            }
        )
    return rows


def kind_of(name: str) -> str:
    """Precision of a variant's products."""
    return "float32" if name == "published" else parted(name)[0]


def peak(what: str, case: str, name: str) -> float:
    """MiB that a step takes beyond imports (resident) or beyond what was there (tensors)."""
    config = apply(Config(), CASES[case])

    def make() -> Callable[[], object]:
        return make_variant(config, name, make_batch(config))

    return resident_at_most(make) if what == "memory" else held_at_most(make())


def alone(what: str, case: str, name: str) -> float:
    """What `--memory` or `--tensors` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", f"--{what}", case, name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def variants_of(case: str, kinds: list[str], each: bool) -> tuple[str, ...]:
    """What is compared in a case."""
    names = ["published", *kinds]
    for kind in kinds if each else ():
        names.append(kind + PLAIN)
        names += [f"{kind}{WITHOUT}{path}" for path in paths_of(case, kind)]
    return tuple(names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["b", "c"], choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--precision", nargs="+", default=["float32", "bfloat16"], choices=VARIANTS[1:]
    )
    parser.add_argument("--each", action="store_true", help="with each fast path left out, too")
    parser.add_argument("--json", metavar="FILE", help="where the record goes")
    parser.add_argument(
        "--memory", nargs=2, metavar=("CASE", "VARIANT"), help="print the resident peak in MiB"
    )
    parser.add_argument(
        "--tensors", nargs=2, metavar=("CASE", "VARIANT"), help="print the peak of tensors in MiB"
    )
    options = parser.parse_args()
    if options.memory or options.tensors:
        what, of = ("memory", options.memory) if options.memory else ("tensors", options.tensors)
        print(f"{peak(what, *of):.0f}")
        return
    print(machine())
    rows = []
    for case in options.cases:
        variants = variants_of(case, options.precision, options.each)
        rows += (found := run_case(case, options.rounds, variants))
        for row in found:
            name = f"case {row['case']} {row['variant']}"
            print(
                f"{name:20} seconds {shown(row['rounds'])}; published : this "
                f"{shown(row['ratios'])} {row['verdict']}",
                flush=True,
            )
    for row in rows:
        if row["variant"] not in VARIANTS:  # of what is left out, only the time
            continue
        resident = [alone("memory", row["case"], row["variant"]) for _ in range(MEMORY_RUNS)]
        row["peak_mib"], row["peaks_mib"] = statistics.median(resident), resident
        row["tensors_mib"] = alone("tensors", row["case"], row["variant"])
    print(f"\n{table('step', rows)}")
    if options.json:
        write_record(Path(options.json), "step", rows)


if __name__ == "__main__":
    main()
