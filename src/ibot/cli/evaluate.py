"""`ibot eval`."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from ibot.errors import DataError
from ibot.types import ResultRecord


def knn(options: argparse.Namespace) -> int:
    """k-NN accuracy of weights on a labelled folder; a run also gets a record in its results.jsonl."""
    import numpy as np

    from ibot.data.sources import labelled_sets
    from ibot.engine.device import choose_device
    from ibot.eval.features import extract_features
    from ibot.eval.knn import knn_accuracy
    from ibot.weights.read import load

    sets = labelled_sets(options.data, options.val_data)
    if sets is None:
        raise DataError(
            f"'{options.data}' is not a labelled set",
            why="k-NN needs train/ and val/ (or test/) folders that hold one folder per class",
            fix="arrange it so, or name the validation folder with --val-data",
        )
    began = time.perf_counter()
    device = choose_device(options.device)
    loaded = load(options.weights, options.key)
    backbone = loaded.backbone.to(device)
    size = (options.size, options.size) if options.size else loaded.size
    parts = []
    for source, limit, name in zip(sets, (options.max_train, options.max_val), ("train", "val"), strict=True):
        indices = np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int).tolist() if limit else None
        progress = None if options.quiet or options.json else counter(name)
        parts.append(extract_features(backbone, source, size=size, indices=indices, device=device, progress=progress))
    bank, queries = parts
    scores = knn_accuracy(
        bank.unit().to(device), bank.labels.to(device), queries.unit().to(device), queries.labels.to(device),
        ks=options.k, temperature=options.temperature,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    settings = {"temperature": options.temperature, "feature": "cls", "normalised": True, "size": list(size)}
    records = [
        ResultRecord(
            "knn", "knn_top1", score.top1, {**settings, "k": k}, len(bank.names), len(queries.names),
            str(options.weights), seconds, {"top5": score.top5, "balanced": score.balanced},
        )
        for k, score in scores.items()
    ]  # fmt: skip
    _keep(Path(options.weights), records)
    if options.json:
        for record in records:
            print(json.dumps(asdict(record)))
        return 0
    if max(options.k) > len(bank.names):
        print(f"note: k is at most the {len(bank.names)} training images")
    print(f"{len(bank.names)} training, {len(queries.names)} validation images of {len(sets[0].classes)} classes")
    print(f"class token of the {options.key} at {size[0]}x{size[1]}, l2-normalised, T = {options.temperature:g}")
    print(f"{'k':>5}  {'top-1':>6}  {'top-5':>6}  {'balanced':>8}")
    for k, score in scores.items():
        top5 = f"{score.top5:6.2f}" if score.top5 is not None else "     -"
        print(f"{k:>5}  {score.top1:6.2f}  {top5}  {score.balanced:8.2f}")
    return 0


def counter(name: str):
    """A one-line counter on a terminal, silent elsewhere."""
    import sys

    def show(done: int, total: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{name}: {done}/{total} images", end="\n" if done >= total else "", flush=True)

    return show


def _keep(run: Path, records: list[ResultRecord]) -> None:
    if (run / "config.json").is_file():
        with (run / "results.jsonl").open("a") as file:
            file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
