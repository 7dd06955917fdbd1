"""What `ibot plan` forecasts of a step on this machine, and what the step then takes.

    python -m benchmarks.plan [--cases tiny32 tiny96 b c] [--seconds 10] [--rounds 5] [--json FILE]

For each case: seconds of an optimizer step by formula (products at a share of the rate that is
measured first), by the probe (`ibot plan --probe`: small steps of random images for `--seconds`),
and measured, the median of `--rounds` whole steps; and the most that tensors hold at once, by
formula and as the profiler counts it. The plain forms alone where `--kernels reference`.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch

from benchmarks.peaks import held_at_most
from benchmarks.report import table
from benchmarks.rounds import interleaved, machine, spread, write_record
from benchmarks.step import CASES
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.engine.trial import VALUES, build_update
from ibot.kernels.choice import using
from ibot.recipes import recipe
from ibot.studies.forecast import Forecast, Machine
from ibot.studies.probing import SECONDS, probe, random_batch, this_device
from ibot.system.accelerators import Accelerator

CPU = torch.device("cpu")
MIB = 2**20
OWN = {
    "tiny32": ("tiny32", []),
    "tiny96": ("tiny64", ["augment.global_size=96", "augment.local_size=48", "train.batch=64"]),
    "vit_t16": (
        "ablation_base",
        [
            *("model.width=192", "model.heads=3", "augment.global_size=96", "train.batch=32"),
            *("head.out_dim=1024", "head.patch_out_dim=1024"),
        ],
    ),
}
"""Cases beside those of `benchmarks.step`: recipe and settings."""


def config_of(case: str, kind: str, kernels: str) -> Config:
    """Settings of a case, with products in `kind`."""
    name, settings = OWN.get(case, ("", []))
    config = recipe(name) if name else apply(Config(), CASES[case])
    return apply(config, [*settings, f"train.precision={kind}", f"system.kernels={kernels}"])


def row_of(case: str, config: Config, device: Accelerator, seconds: float, rounds: int) -> dict:
    """Forecast and measured."""
    formula = Forecast(config=config, machine=Machine(device=device), images=100_000)
    probed = Forecast(
        config=config,
        machine=formula.machine,
        images=formula.images,
        probe=probe(config, CPU, seconds),
    )
    torch.manual_seed(0)
    update = build_update(config, CPU)
    batch = random_batch(config, config.train.batch, CPU, update.model.student.backbone.drop_rates)
    step = partial(update.step, [batch], VALUES, observe=False)
    others: list[float] = []
    took = interleaved({"step": step}, rounds, others)["step"]
    measured = statistics.median(took)
    memory = formula.memory(formula.micro_batch)
    # The views are there before the step; gradients of the step before are not counted.
    needed = (memory.peak - memory.views - memory.states) / MIB
    held = held_at_most(step)
    states = memory.states / MIB
    return {
        "case": case,
        "precision": config.train.precision,
        "batch": config.train.batch,
        "formula_seconds": round(formula.step_seconds, 4),
        "probe_seconds": round(probed.step_seconds, 4),
        "seconds": round(measured, 4),
        "formula_ratio": round(formula.step_seconds / measured, 3),
        "probe_ratio": round(probed.step_seconds / measured, 3),
        "rounds": [round(value, 4) for value in took],
        "spread": round(spread(took), 3),
        "others": others,
        "states_mib": round(states, 1),
        "formula_mib": round(states + needed, 1),
        "peak_mib": round(states + held, 1),
        "memory_ratio": round((states + needed) / (states + held), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*OWN, *CASES]
    parser.add_argument("--cases", nargs="+", default=["tiny32", "tiny96", "c", "b"], choices=names)
    kinds = ["float32", "bfloat16"]
    parser.add_argument("--precision", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each probe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernels", default="auto", choices=["auto", "reference"])
    parser.add_argument("--json", metavar="FILE", help="where the record goes")
    options = parser.parse_args()
    print(machine())
    device, rows = this_device(CPU), []
    rates = f"{device.float32:.3g} TFLOP/s in float32, {device.bfloat16:.3g} in bfloat16"
    print(f"{rates}; copies {1000 * device.bandwidth:.3g} GB/s")
    with using(options.kernels):
        for case in options.cases:
            for kind in options.precision:
                config = config_of(case, kind, options.kernels)
                rows.append(row_of(case, config, device, options.seconds, options.rounds))
                print(rows[-1], flush=True)
    print(f"\n{table('plan', rows)}")
    if options.json:
        write_record(Path(options.json), "plan", rows)


if __name__ == "__main__":
    main()
