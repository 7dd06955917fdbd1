"""Seconds and peak memory of one training step of segmentation on a CPU.

python -m benchmarks.segmentation_step [--size 512] [--batch 2] [--rounds 3]

ViT-S/16, 150 classes: a linear head on the frozen network and UPerNet with all of it, in float32
and bfloat16, UPerNet also with blocks that are computed again. Each way in a process of its own,
one step before those that count; the peak is that of the whole process, beside it that before the
first step. Rounds that differ by more than 10 % are called no result.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.rounds import machine, verdict
from ibot.config.schema import ModelConfig
from ibot.eval.dense.segmentation.network import Segmenter
from ibot.models.backbone import build_backbone
from ibot.system.device import autocast, has_native_bfloat16

CLASSES = 150
WAYS = {
    "linear, float32": ("linear", "float32", False),
    "linear, bfloat16": ("linear", "bfloat16", False),
    "upernet, float32": ("upernet", "float32", False),
    "upernet, float32, checkpointing": ("upernet", "float32", True),
    "upernet, bfloat16": ("upernet", "bfloat16", False),
}


def peak() -> float:
    """MiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, size: int, batch: int, rounds: int) -> dict[str, object]:
    """Seconds of each step, and MiB before the first and at the peak."""
    head, precision, checkpointing = WAYS[way]
    torch.manual_seed(0)
    small = ModelConfig(width=384, depth=12, heads=6, patch=16)
    backbone = build_backbone(small, (size, size))
    backbone.resize_positions((size, size), "exact")
    model = Segmenter(backbone, head, CLASSES, drop_path=0.1, checkpointing=checkpointing).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    images = torch.randn(batch, 3, size, size)
    labels = torch.randint(-1, CLASSES, (batch, size, size), dtype=torch.int16)
    before, seconds = peak(), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), getattr(torch, precision)):
            model.loss(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "before": before, "peak": peak()}


def main() -> None:
    """Measure all ways, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", default="", choices=["", *WAYS])
    options = parser.parse_args()
    asked = options.size, options.batch, options.rounds
    if options.way:
        print(json.dumps(measure(options.way, *asked)))
        return
    print(machine())
    print("| step | seconds | peak MiB | MiB before |\n|---|---|---|---|")
    numbers = ["--size", "--batch", "--rounds"]
    given = [text for pair in zip(numbers, map(str, asked), strict=True) for text in pair]
    # Without the instructions a step takes minutes; `--way` measures it all the same.
    native = has_native_bfloat16(torch.device("cpu"))
    for way in (name for name in WAYS if native or "bfloat16" not in name):
        command = [sys.executable, "-m", "benchmarks.segmentation_step", "--way", way, *given]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = found["seconds"]
        said = verdict({way: seconds}) or f"{statistics.median(seconds):.2f}"
        print(f"| {way} | {said} | {found['peak']:.0f} | {found['before']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
