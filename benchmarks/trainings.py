"""Short trainings in processes of their own, and how fast they went by their own records."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ibot.system.waiting import CHOICES

RUN = """
import sys
from ibot.config.override import apply
from ibot.engine.loop import train
from ibot.recipes import recipe
name, folder, *settings = sys.argv[1:]
train(apply(recipe(name), settings), folder, quiet=True)
"""
"""The loop with its loader, below the command line: nothing is evaluated, and nobody but the caller
chooses how threads wait."""
REPORTS = 5
"""Rows of a training's metrics; the first one is left out, in which loader processes start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is to be trained."""

    recipe: str
    data: Path
    steps: int
    checkout: Path = Path(__file__).parents[1]
    """Whose code runs; by default this one."""
    settings: Sequence[str] = ()

    def start(self, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A process that trains into `folder`.

        environment: how its threads wait (`ibot.system.waiting`), and whatever else it is to see.
        """
        inherited = {name: value for name, value in os.environ.items() if name not in CHOICES}
        settings = [
            f"data.path={self.data}",
            "system.device=cpu",
            "log.tensorboard=false",
            f"log.every={max(1, self.steps // REPORTS)}",
            f"train.max_steps={self.steps}",
            *self.settings,
        ]
        return subprocess.Popen(
            [sys.executable, "-c", RUN, self.recipe, str(folder), *settings],
            env={**inherited, **environment, "PYTHONPATH": str(self.checkout / "src")},
            cwd=folder.parent,
            stdout=subprocess.DEVNULL,
        )

    def rates(self, folder: Path, environment: Mapping[str, str], count: int = 1) -> list[float]:
        """Images/s of each of `count` such trainings at once. Raises SystemExit where one fails."""
        runs = [folder / f"{time.monotonic_ns()}-{i}" for i in range(count)]
        processes = [self.start(run, environment) for run in runs]
        if any([process.wait() for process in processes]):
            raise SystemExit(f"a training of {self.recipe} by {self.checkout} failed")
        return [rate(run) for run in runs]


def rate(run: Path) -> float:
    """Images/s of a run, waiting for data included; the first row of its metrics is left out."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    images = seconds = 0.0
    for before, row in itertools.pairwise(rows):
        images += row["images_seen"] - before["images_seen"]
        seconds += (row["images_seen"] - before["images_seen"]) / row["images_per_second"]
    return images / seconds
