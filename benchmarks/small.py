"""Images/s of small trainings, by this checkout and by another one; and of two at once.

    python -m benchmarks.small --against PATH [--recipes tiny32 demo] [--data FOLDER] [--rounds 5]
                               [--steps 100] [--two] [--settings KEY=VALUE ...] [--json FILE]

Every training is the real loop in a process of its own, with its loader and real images: those of
--data for all recipes but `demo`, which has its generated scenes (and so have the others without
--data). In every round both checkouts train once, in turn; printed are the ratios of all rounds and
their median. With --two, two trainings of this checkout run at once beside one alone: each one's
share of what one makes alone. 100 steps of either recipe take half a minute on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.rounds import machine, shown, write_record
from benchmarks.trainings import Training
from ibot.data.scenes import write_folder
from ibot.system.waiting import SHORT

SCENES = 4000


def compare(training: Training, other: Path, rounds: int) -> list[dict[str, object]]:
    """Both checkouts in turn: a row for each."""
    trainings = {"this": training, "other": replace(training, checkout=other)}
    rates: dict[str, list[float]] = {name: [] for name in trainings}
    for turn in range(rounds):
        for name in list(trainings)[:: 1 if turn % 2 else -1]:
            rates[name] += _rates(trainings[name])
    ratios = [new / old for new, old in zip(rates["this"], rates["other"], strict=True)]
    print(f"{training.recipe}: this / other {statistics.median(ratios):.2f}; {shown(ratios)}")
    for name, values in rates.items():
        print(f"  {name:6} {statistics.median(values):6.1f} images/s; {shown(values)}")
    return [
        _row(training, "this", rates["this"], ratios),
        _row(training, "other", rates["other"], [1.0]),
    ]


def together(training: Training, rounds: int) -> dict[str, object]:
    """Two at once against one alone: the smaller share of what one makes alone, of each round."""
    shares, found = [], []
    for _ in range(rounds):
        alone, pair = _rates(training)[0], _rates(training, 2)
        shares.append(min(pair) / alone)
        found += pair
    print(
        f"{training.recipe}: the slower of two at once has {statistics.median(shares):.2f} of "
        f"one alone; {shown(shares)}"
    )
    return _row(training, "two at once", found, shares)


def _row(
    training: Training, variant: str, rates: Sequence[float], ratios: Sequence[float]
) -> dict[str, object]:
    return {
        "case": training.recipe,
        "variant": variant,
        "images_per_second": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "rounds": [round(rate, 1) for rate in rates],
    }


def _rates(training: Training, count: int = 1) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        return training.rates(Path(folder), SHORT, count)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout")
    parser.add_argument("--recipes", nargs="+", default=["tiny32", "demo"], metavar="RECIPE")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images of all but the demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--two", action="store_true", help="also two trainings at once")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the record goes")
    options = parser.parse_args(arguments)
    print(machine())
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        scenes = Path(temporary)
        if options.data is None or "demo" in options.recipes:
            write_folder(scenes, train=SCENES, val=0, seed=0)
        for name in options.recipes:
            own = options.data is not None and name != "demo"
            data = options.data.resolve() if own else scenes
            training = Training(
                recipe=name, data=data, steps=options.steps, settings=options.settings
            )
            if options.against is not None:
                rows += compare(training, options.against.resolve(), options.rounds)
            if options.two:
                rows.append(together(training, options.rounds))
    if options.json is not None:
        write_record(options.json, "small", rows)


if __name__ == "__main__":
    main()
