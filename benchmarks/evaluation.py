"""k-NN search against an exact search library, and the linear sweep against a single rate.

python -m benchmarks.evaluation [--queries 10240] [--rounds 5] [--rows BANK.npz QUERIES.npz]
[--weights RUN --data DIR]

100,000 random unit features, 384 wide, alone and around 100 common directions; or those that `ibot
features` wrote. Interleaved rounds in one process: all of them, medians, and their spread; rounds
that differ by more than 10 % are called no result. Peak memory of each way in a process of its own,
above that of the features. `pip install faiss-cpu` gives the library to compare with. With weights
and images also an epoch of the published probe, which computes the features of new crops: 45 rates
against one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.rounds import interleaved, machine, ratios, shown, verdict
from ibot.cli.main import main as ibot
from ibot.eval.neighbours.nearest import nearest
from ibot.eval.probes.linear_sweep import LinearSweep
from ibot.eval.probes.settings import SWEEP

COUNT, WIDTH, CLASSES, BATCH = 100_000, 384, 100, 1024


def features(count: int, seed: int, clusters: int = 0) -> torch.Tensor:
    """Unit rows; with clusters each is one of so many unit rows plus a random one half as long."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, WIDTH, generator=generator)
    if clusters:
        centres = features(clusters, seed=-1)
        rows.div_(2 * WIDTH**0.5).add_(
            centres[torch.randint(clusters, (count,), generator=generator)]
        )
    # In place: a copy would hide what a search needs.
    return rows.div_(rows.norm(dim=1, keepdim=True))


Search = Callable[[torch.Tensor, int], torch.Tensor]
"""Queries [q, D] and k -> index of the nearest [q, k]."""


def ours(bank: torch.Tensor) -> Search:
    return lambda queries, k: nearest(bank, queries, k)[1]


def plain(bank: torch.Tensor) -> Search:
    return lambda queries, k: nearest(bank, queries, k, screen=None)[1]


def library(bank: torch.Tensor) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())
    return lambda queries, k: torch.from_numpy(index.search(queries.numpy(), k)[1])


WAYS = {"ibot": ours, "faiss": library, "ibot, plain": plain}


def compare_searches(bank: torch.Tensor, queries: torch.Tensor, k: int, rounds: int) -> None:
    known = (
        WAYS
        if importlib.util.find_spec("faiss")
        else {name: WAYS[name] for name in WAYS if name != "faiss"}
    )
    searches = {name: build(bank) for name, build in known.items()}
    answers = {name: search(queries, k) for name, search in searches.items()}
    for name in list(answers)[1:]:
        equal = (answers["ibot"] == answers[name]).double().mean().item()
        apart = max(
            (exact(bank, rows, a) - exact(bank, rows, b)).abs().max().item()
            for rows, a, b in zip(
                queries.split(64), answers["ibot"].split(64), answers[name].split(64), strict=True
            )
        )
        print(
            f"k = {k}  ibot and {name}: {100 * equal:.4f} % of the neighbours are the same, place "
            "by place;"
        )
        print(f"where not, their similarities, in float64, are at most {apart:.1e} apart")
    ways = {name: functools.partial(search, queries, k) for name, search in searches.items()}
    report(f"{len(queries)} queries, k = {k}", interleaved(ways, rounds))


def exact(bank: torch.Tensor, queries: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Similarities [q, k] in float64 of queries [q, D] and rows `index` [q, k] of the bank."""
    return (bank[index].double() @ queries.double()[:, :, None])[:, :, 0]


def sweep_ways(bank: torch.Tensor) -> dict[str, Callable[[], None]]:
    labels = torch.randint(CLASSES, (len(bank),), generator=torch.Generator().manual_seed(2))

    def epoch(rates: tuple[float, ...]) -> None:
        sweep = LinearSweep(WIDTH, CLASSES, rates)
        for rows in torch.randperm(len(bank)).split(BATCH):
            sweep.step(bank[rows], labels[rows], 1.0)

    return {"45 rates": lambda: epoch(SWEEP), "1 rate": lambda: epoch((0.1,))}


def published_probe(weights: str, data: str) -> dict[str, Callable[[], None]]:
    def probe(*settings: str) -> None:
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
            places = ["--data", data, "--out", out, "--mode", "published", "--quiet"]
            numbers = ["--max-train", "4000", "--max-val", "500", "epochs=2", *settings]
            ibot(["eval", "linear", weights, *places, *numbers])

    return {"45 rates": probe, "1 rate": lambda: probe("rates=0.1")}


def report(title: str, seconds: dict[str, list[float]]) -> None:
    """Every round, their spread, and the ratios to the first way, or that they are no result."""
    first, *others = seconds
    for name, values in seconds.items():
        print(f"{title}  {name}: {statistics.median(values):.2f} s; rounds {shown(values)}")
    for other in others:
        each = ratios(seconds, first, other)
        failed = verdict({name: seconds[name] for name in (first, other)})
        print(
            f"{title}  {first} / {other}: {failed or f'{statistics.median(each):.2f}'}; rounds "
            f"{shown(each)}"
        )


def peak_memory(work: str) -> float:
    """MiB above 100,000 features that work on them and 1,024 `queries` needs, in a new process."""
    code = f"""
from benchmarks.evaluation import COUNT, WAYS, features, sweep_ways
def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
def work(bank):
    {work}
bank, queries = features(COUNT, 0), features(1024, 1)
work(bank[:256])  # what libraries take on their first call
before = peak()
work(bank)
print(peak() - before)
"""
    return float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_240)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows",
        nargs=2,
        metavar="FILE.npz",
        help="what `ibot features` wrote of a bank and of queries",
    )
    parser.add_argument("--weights", help="a run or weights file")
    parser.add_argument("--data", help="labelled images")
    options = parser.parse_args()
    print(machine())
    bank = features(COUNT, 0)
    sets = {
        "random": (bank, features(options.queries, 1)),
        "around 100 directions": (features(COUNT, 2, 100), features(options.queries, 3, 100)),
    }
    if options.rows:
        given = (
            torch.nn.functional.normalize(torch.from_numpy(np.load(file)["cls"]).float())
            for file in options.rows
        )
        sets = {"given": tuple(given)}
    for name, (rows, queries) in sets.items():
        print(f"\nfeatures {name}: {len(rows)} x {rows.shape[1]}")
        for k in (20, 200):
            compare_searches(rows, queries, k, options.rounds)
    if options.rows:
        return
    for k in (20, 200):
        for name in WAYS:
            used = peak_memory(f"WAYS[{name!r}](bank)(queries, {k})")
            print(f"k = {k}  {name}: {used:.0f} MiB above the features")
    report(
        f"\none epoch of {CLASSES} classes, features in memory",
        interleaved(sweep_ways(bank), options.rounds),
    )
    used = peak_memory("sweep_ways(bank)['45 rates']()")
    print(f"45 rates: {used:.0f} MiB above the features")
    if options.weights:
        ways = published_probe(options.weights, options.data)
        report(
            "two epochs of the published probe from 4,000 images", interleaved(ways, options.rounds)
        )


if __name__ == "__main__":
    main()
