"""k-NN search against an exact search library, and the linear sweep against a single rate.

python -m benchmarks.evaluation [--features 100000] [--queries 10240] [--rounds 3] [--weights RUN --data DIR]

Random unit features, 384 wide; interleaved rounds in one process, medians; peak memory of each way in a process of its
own, above that of the features. `pip install faiss-cpu` gives the library to compare with. With weights and images also
an epoch of the published probe, which computes the features of new crops: 45 rates against one.
"""

from __future__ import annotations

import argparse
import contextlib
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
from ibot.eval.knn import nearest
from ibot.eval.linear import LinearSweep

WIDTH, CHUNK, CLASSES, BATCH = 384, 1024, 100, 1024


def features(count: int, seed: int) -> torch.Tensor:
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def search_ways(bank: torch.Tensor, queries: torch.Tensor, k: int) -> dict[str, Callable[[], torch.Tensor]]:
    chunks = queries.split(CHUNK)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "ibot": lambda: torch.cat([nearest(bank, part, k)[1] for part in chunks])
    }
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: no comparison")
        return ways
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(WIDTH)
    index.add(bank.numpy())
    ways["faiss"] = lambda: torch.cat([torch.from_numpy(index.search(part.numpy(), k)[1]) for part in chunks])
    return ways


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
import pathlib
from benchmarks.evaluation import features, search_ways
def memory(name):
    line = next(l for l in open("/proc/self/status") if l.startswith(name))
    return int(line.split()[1]) / 1024
bank, queries = features({count}, 0), features(1024, 1)
before = memory("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
search_ways(bank, queries, {k})[{name!r}]()
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
        ways = search_ways(bank, queries, k)
        answers = {name: way() for name, way in ways.items()}
        if "faiss" in answers:
            equal = (answers["ibot"] == answers["faiss"]).double().mean().item()
            print(f"k = {k}: {100 * equal:.4f} % of the neighbours agree; the rest are ties in rounding")
        report(f"{options.queries} queries, k = {k}", interleaved(ways, options.rounds))
        for name in ways:
            print(f"k = {k}  {name}: {peak_memory(name, options.features, k):.0f} MiB above the features")
    report(f"one epoch of {CLASSES} classes, features in memory", interleaved(sweep_ways(bank), options.rounds))
    if options.weights:
        ways = published_probe(options.weights, options.data)
        report("two epochs of the published probe from 4,000 images", interleaved(ways, options.rounds))


if __name__ == "__main__":
    main()
