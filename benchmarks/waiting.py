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
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from ibot.data.scenes import write_folder
from ibot.system.waiting import CHOICES

WAYS = {
    "unset": None,  # `ibot` would choose, so the runs start below its command line
    "passive": {"OMP_WAIT_POLICY": "passive"},
    **{f"{spins} spins": {"GOMP_SPINCOUNT": str(spins)} for spins in (100, 1_000, 10_000, 100_000)},
}
RUN = """
import sys, time, torch
from ibot.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""With torch loaded first, `ibot` chooses nothing."""


def start(way: str, data: Path, run: Path, steps: int) -> subprocess.Popen[bytes]:
    """A training in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    environment.update(WAYS[way] or {})
    options = ["--data", str(data), "--run", str(run), "--steps", str(steps), "--device", "cpu"]
    command = [sys.executable, "-c", RUN, "pretrain", "tiny32", *options, "--quiet", "log.every=1"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def seconds(way: str, data: Path, folder: Path, count: int, steps: int) -> tuple[float, float]:
    """Mean seconds from first to last step of `count` runs at once, and images/s of one."""
    runs = [folder / f"{time.monotonic_ns()}" for _ in range(count)]
    processes = [start(way, data, run, steps) for run in runs]
    if any(process.wait() for process in processes):
        raise SystemExit(f"a run with {way} failed")
    rates = []
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
        images = rows[1]["images_seen"] - rows[0]["images_seen"]
        rates.append(images * len(rows) / sum(images / row["images_per_second"] for row in rows))
    return statistics.mean(images * len(rows) / rate for rate in rates), statistics.mean(rates)


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
        for turn in range(options.rounds):
            for way in names[turn % len(names) :] + names[: turn % len(names)]:
                for count in (1, 2):
                    if time.monotonic() - began < options.seconds:
                        found[way, count].append(seconds(way, data, folder, count, options.steps))
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
