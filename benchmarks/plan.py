"""What `ibot plan` says of a training on this machine, and what the training then takes.

    python -m benchmarks.plan [--cases tiny32 tiny96 c b] [--minutes 5.3] [--data DIR] [--json FILE]

Of each case, in turn, each in a process of its own as users start them: `ibot plan` with data, then
a training of some seconds, whose images a second are those of its own metrics; in the next round
the other way about, so that what else runs on the machine hits both. All cases have one round,
however long it takes; further ones while the minutes last, ten at most. Ratios are of each round,
forecast over measured. Beside them, once: seconds by formula, at the rate of products that is
measured first, and by steps of random images (`ibot plan --images N`); and the most that tensors
hold at once, by formula and as the profiler counts it.

Images are generated, or those of --data. The record is written after every training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.peaks import held_at_most
from benchmarks.report import table
from benchmarks.rounds import machine, spread, write_record
from benchmarks.step import CASES
from benchmarks.trainings import REPORTS, Training
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.scenes import write_folder
from ibot.engine.random_steps import VALUES, random_batch
from ibot.engine.trial import build_update
from ibot.kernels.choice import using
from ibot.recipes import recipe
from ibot.studies.forecast import Forecast, Machine
from ibot.studies.probing import probe, this_device
from ibot.system.accelerators import Accelerator
from ibot.system.load import Load
from ibot.system.portable import cores
from ibot.system.waiting import SHORT

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
"""Cases beside those of `benchmarks.step`: recipe and settings. Theirs are of `vit_s16`."""
SCENES, SMALL, LARGE = 256, 64, 256
"""Pictures, and their sides for views of up to 96 pixels and of more."""
TRAINED, PROBED = 5.0, 3.0
"""Seconds of a training behind its first row, and of steps of random images."""
MOST = 10
"""Rounds."""


@dataclass(kw_only=True)
class Case:
    """A recipe with settings, what is said of it, and what was measured."""

    name: str
    kind: str
    data: Path
    row: dict[str, Any] = field(default_factory=dict)
    """By formula, by random images, and memory."""
    planned: list[float] = field(default_factory=list)
    """Seconds of a step, of each round; so the others."""
    trained: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    """Cores that other processes took meanwhile."""

    @property
    def recipe(self) -> str:
        """Its name."""
        return OWN[self.name][0] if self.name in OWN else "vit_s16"

    @property
    def settings(self) -> list[str]:
        """Over it."""
        own = OWN[self.name][1] if self.name in OWN else CASES[self.name]
        return [*own, f"train.precision={self.kind}"]

    @property
    def config(self) -> Config:
        """Of both."""
        return apply(recipe(self.recipe), self.settings)

    def go(self, device: Accelerator, turn: int) -> None:
        """One round."""
        if not self.row:
            self.row = reckoned(self.config, device)
        load = Load()
        # Before anything is planned the length follows from random images.
        guess = self.planned[-1] if self.planned else self.row["probe_seconds"]
        for planning in (True, False) if turn % 2 == 0 else (False, True):
            if planning:
                self.planned.append(guess := self._plan())
            else:
                self.trained.append(self._train(guess))
        self.others.append(round(load.read() * len(cores()), 2))

    def _plan(self) -> float:
        """Seconds of a step, by the command."""
        words = ["plan", self.recipe, "--data", str(self.data), "--device", "cpu", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "ibot", *words, *self.settings],
            env={**os.environ, **SHORT, "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return json.loads(done.stdout)["step_seconds"]

    def _train(self, guess: float) -> float:
        """Seconds of a step, by the metrics of a training."""
        steps = REPORTS * max(1, round(TRAINED / (REPORTS - 1) / guess))
        training = Training(recipe=self.recipe, data=self.data, steps=steps, settings=self.settings)
        with tempfile.TemporaryDirectory() as folder:
            return self.config.train.batch / training.rates(Path(folder), SHORT)[0]

    def record(self) -> dict[str, Any]:
        """A row."""
        pairs = zip(self.planned, self.trained, strict=True)
        ratios = [round(planned / trained, 3) for planned, trained in pairs]
        measured = statistics.median(self.trained)
        return {
            "case": self.name,
            "precision": self.kind,
            "batch": self.config.train.batch,
            "plan_seconds": round(statistics.median(self.planned), 4),
            "seconds": round(measured, 4),
            "plan_ratio": round(statistics.median(ratios), 3),
            "ratios": ratios,
            "probe_ratio": round(self.row["probe_seconds"] / measured, 3),
            "formula_ratio": round(self.row["formula_seconds"] / measured, 3),
            "rounds": [round(value, 4) for value in self.trained],
            "spread": round(spread(self.trained), 3),
            "others": self.others,
            **self.row,
        }


def reckoned(config: Config, device: Accelerator) -> dict[str, float]:
    """Time by formula and by random images; memory by formula and as it is counted."""
    formula = Forecast(config=config, machine=Machine(device=device), images=100_000)
    torch.manual_seed(0)
    update = build_update(config, CPU)
    batch = random_batch(config, config.train.batch, CPU, update.model.student.backbone.drop_rates)
    memory = formula.memory(formula.micro_batch)
    # The views are there before the step; gradients of the step before are not counted.
    needed, states = (memory.peak - memory.views) / MIB, memory.states / MIB
    with using(config.system.kernels):
        held = states + held_at_most(partial(update.step, [batch], VALUES, observe=False))
    del update, batch
    probed = probe(config, formula.micro_batch, PROBED)
    return {
        "formula_seconds": round(formula.step_seconds, 4),
        "probe_seconds": round(probed.per_image * config.train.batch, 4),
        "states_mib": round(states, 1),
        "formula_mib": round(needed, 1),
        "peak_mib": round(held, 1),
        "memory_ratio": round(needed / held, 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*OWN, *CASES]
    parser.add_argument("--cases", nargs="+", default=["tiny32", "tiny96", "c", "b"], choices=names)
    kinds = ["float32", "bfloat16"]
    parser.add_argument("--precision", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--minutes", type=float, default=5.3, help="after which no round begins")
    parser.add_argument("--data", type=Path, metavar="DIR", help="images of all cases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the record goes")
    options = parser.parse_args(arguments)
    print(machine())
    began, device = time.monotonic(), this_device(CPU)
    rates = f"{device.float32:.3g} TFLOP/s in float32, {device.bfloat16:.3g} in bfloat16"
    print(f"{rates}; copies {1000 * device.bandwidth:.3g} GB/s")
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            Case(name=name, kind=kind, data=options.data or Path(folder))
            for name in options.cases
            for kind in options.precision
        ]
        for case in cases if options.data is None else []:
            side = SMALL if max(case.config.augment.global_size) <= 96 else LARGE
            case.data = Path(folder) / str(side)
            write_folder(case.data, train=SCENES, val=0, size=side)
        rows: list[dict[str, Any]] = []
        for turn, case in itertools.product(range(MOST), cases):
            if turn and time.monotonic() - began > 60 * options.minutes:
                break
            case.go(device, turn)
            print(case.record(), flush=True)
            rows = [case.record() for case in cases if case.trained]
            if options.json:
                write_record(options.json, "plan", rows)
    print(f"\n{table('plan', rows)}")


if __name__ == "__main__":
    main()
