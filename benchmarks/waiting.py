"""What spinning threads cost: a short training alone, and two at once, for several ways to wait.

    python -m benchmarks.waiting [--ways unset passive ...] [--rounds 2] [--seconds 480] [--steps
    30]

Every way runs once per round, in rotated order; no run starts later than --seconds. Prints the
seconds of every run and their medians (a run's own, from the first step to the last, and images/s
of one alone); appends rows to benchmarks/results/waiting.jsonl. `unset` is what OpenMP does by
itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.trainings import Training
from ibot.data.scenes import write_folder
from ibot.recipes import recipe

WAYS = {
    "unset": None,  # the runs start below the command line, which would choose
    "passive": {"OMP_WAIT_POLICY": "passive"},
    **{f"{spins} spins": {"GOMP_SPINCOUNT": str(spins)} for spins in (100, 1_000, 10_000, 100_000)},
}


def seconds(way: str, training: Training, folder: Path, count: int) -> tuple[float, float]:
    """Mean seconds of the steps of `count` runs at once, and images/s of one."""
    rates = training.rates(folder, WAYS[way] or {}, count)
    images = recipe(training.recipe).train.batch * training.steps
    return statistics.mean(images / rate for rate in rates), statistics.mean(rates)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    began, names = time.monotonic(), options.ways
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        data, folder = Path(temporary) / "data", Path(temporary)
        write_folder(data, train=2000, val=0, seed=0)
        training = Training(recipe="tiny32", data=data, steps=options.steps)
        for turn in range(options.rounds):
            for way in names[turn % len(names) :] + names[: turn % len(names)]:
                for count in (1, 2):
                    if time.monotonic() - began < options.seconds:
                        found[way, count].append(seconds(way, training, folder, count))
    print(f"{'':14}{'alone, s':>10}{'images/s':>10}{'two at once, s':>16}   all: alone | two")
    rows = []
    for way in names:
        alone, two = found[way, 1], found[way, 2]
        medians = [
            statistics.median(values) if values else float("nan")
            for values in ([s for s, _ in alone], [r for _, r in alone], [s for s, _ in two])
        ]
        listed = " | ".join(" ".join(f"{s:.1f}" for s, _ in part) for part in (alone, two))
        print(f"{way:14}{medians[0]:10.1f}{medians[1]:10.0f}{medians[2]:16.1f}   {listed}")
        rows.append(
            {
                "way": way,
                "alone": alone,
                "two": two,
                "steps": options.steps,
                "machine": platform.platform(),
            }
        )
    with (Path(__file__).parent / "results" / "waiting.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps({"when": time.strftime("%Y-%m-%dT%H:%M:%S"), **row}) + "\n")


if __name__ == "__main__":
    main()
