"""k-NN search against an exact search library, and the linear sweep against a single rate.

python -m benchmarks.evaluation [--features 100000] [--queries 10240] [--rounds 3] [--weights RUN --data DIR]

Random unit features, 384 wide; interleaved rounds in one process, medians; peak memory of each way in a process of its
own, above that of the features. `pip install faiss-cpu` gives the library to compare with. With weights and images also
an epoch of the published probe, which computes the features of new crops: 45 rates against one.
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
import time
from collections.abc import Callable

import torch

from ibot.cli.main import main as ibot
from ibot.config.evaluation import SWEEP
from ibot.eval.linear import LinearSweep
from ibot.eval.nearest import nearest

WIDTH, CLASSES, BATCH = 384, 100, 1024


def features(count: int, seed: int) -> torch.Tensor:
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return rows.div_(rows.norm(dim=1, keepdim=True))  # in place: a copy would hide what a search needs


Search = Callable[[torch.Tensor, int], torch.Tensor]
"""Queries [q, D] and k -> index of the nearest [q, k]."""


def ours(bank: torch.Tensor) -> Search:
    return lambda queries, k: nearest(bank, queries, k)[1]


def plain(bank: torch.Tensor) -> Search:
    return lambda queries, k: nearest(bank, queries, k, screen=None)[1]


def library(bank: torch.Tensor) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(WIDTH)
    index.add(bank.numpy())
    return lambda queries, k: torch.from_numpy(index.search(queries.numpy(), k)[1])


WAYS = {"ibot": ours, "faiss": library, "ibot, plain": plain}


def compare_searches(bank: torch.Tensor, queries: torch.Tensor, k: int, rounds: int) -> None:
    known = WAYS if importlib.util.find_spec("faiss") else {name: WAYS[name] for name in WAYS if name != "faiss"}
    searches = {name: build(bank) for name, build in known.items()}
    answers = {name: search(queries, k) for name, search in searches.items()}
    for name in list(answers)[1:]:
        equal = (answers["ibot"] == answers[name]).double().mean().item()
        apart = max(
            (exact(bank, rows, a) - exact(bank, rows, b)).abs().max().item()
            for rows, a, b in zip(queries.split(64), answers["ibot"].split(64), answers[name].split(64), strict=True)
        )
        print(f"k = {k}  ibot and {name}: {100 * equal:.4f} % of the neighbours are the same, place by place;")
        print(f"where not, their similarities, in float64, are at most {apart:.1e} apart")
    ways = {name: functools.partial(search, queries, k) for name, search in searches.items()}
    report(f"{len(queries)} queries, k = {k}", interleaved(ways, rounds))
    for name in known:
        print(f"k = {k}  {name}: {peak_memory(name, len(bank), k):.0f} MiB above the features")


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
            ibot(["eval", "linear", weights, "--data", data, "--mode", "published", "--max-train", "4000", "--max-val",
                  "500", "--out", out, "--quiet", "epochs=2", *settings])  # fmt: skip

    return {"45 rates": probe, "1 rate": lambda: probe("rates=0.1")}


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():  # warm up
        way()
    for turn in range(rounds):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> None:
    first, *others = seconds
    for name, values in seconds.items():
        print(f"{title}  {name}: {statistics.median(values):.2f} s")
    for other in others:
        ratio = statistics.median(a / b for a, b in zip(seconds[first], seconds[other], strict=True))
        print(f"{title}  {first} / {other}: {ratio:.2f}")


def peak_memory(name: str, count: int, k: int) -> float:
    """MiB above the features that 1,024 queries need, in a fresh process."""
    code = f"""
from benchmarks.evaluation import WAYS, features
def memory(name):
    line = next(l for l in open("/proc/self/status") if l.startswith(name))
    return int(line.split()[1]) / 1024
bank, queries = features({count}, 0), features(1024, 1)
WAYS[{name!r}](bank[:5000])(queries, {k})  # what libraries take on their first call
before = memory("VmHWM")
WAYS[{name!r}](bank)(queries, {k})
print(memory("VmHWM") - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", help="a run or weights file")
    parser.add_argument("--data", help="labelled images")
    options = parser.parse_args()
    bank, queries = features(options.features, 0), features(options.queries, 1)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.features} x {WIDTH} features")
    for k in (20, 200):
        compare_searches(bank, queries, k, options.rounds)
    report(f"one epoch of {CLASSES} classes, features in memory", interleaved(sweep_ways(bank), options.rounds))
    if options.weights:
        ways = published_probe(options.weights, options.data)
        report("two epochs of the published probe from 4,000 images", interleaved(ways, options.rounds))


if __name__ == "__main__":
    main()
