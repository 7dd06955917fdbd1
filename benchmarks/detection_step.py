"""Seconds and peak memory of one training step of detection on a CPU.

    python -m benchmarks.detection_step [--size 512] [--batch 1] [--samples 512] [--rounds 2]

ViT-S/16 with the published heads, 80 classes, seven objects with masks in each square image, in
float32 and bfloat16, with the blocks of the backbone kept or computed again. Each way in a process
of its own, one step before those that count; beside the peak stands what the process held before
the first step. CPU seconds are those of all threads: they hang less on what else is running, the
others are called no result where rounds differ by more than 10 %.
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
from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.detector import Detector
from ibot.eval.dense.detection.settings import DetectionSettings
from ibot.eval.dense.detection.target import Batch, Target
from ibot.eval.dense.detection.training import parameter_groups
from ibot.models.backbone import build_backbone
from ibot.system.device import autocast, has_native_bfloat16

CLASSES, OBJECTS = 80, 7
WAYS = {
    "float32": ("float32", False),
    "float32, checkpointing": ("float32", True),
    "bfloat16": ("bfloat16", False),
    "bfloat16, checkpointing": ("bfloat16", True),
}


def make_batch(size: int, batch: int) -> Batch:
    """Noise with as many objects as images of COCO have, of all sizes."""
    random = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(batch):
        sides = size * 2 ** (-4 * torch.rand(OBJECTS, 2, generator=random) - 0.5)
        corner = torch.rand(OBJECTS, 2, generator=random) * (size - sides)
        boxes = torch.cat([corner, corner + sides], dim=1)
        labels = torch.randint(0, CLASSES, (OBJECTS,), generator=random)
        masks = torch.randint(0, 2, (OBJECTS, size, size), generator=random, dtype=torch.uint8)
        targets.append(Target(boxes, labels, masks))
    return Batch(
        images=torch.randn(batch, 3, size, size, generator=random),
        sizes=[(size, size)] * batch,
        targets=targets,
        factors=[(1.0, 1.0)] * batch,
        index=list(range(batch)),
    )


def peak() -> float:
    """MiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, size: int, batch: int, samples: int, rounds: int) -> dict[str, object]:
    """Seconds of each step, and MiB before the first and at the peak."""
    precision, checkpointing = WAYS[way]
    torch.manual_seed(0)
    small = ModelConfig(width=384, depth=12, heads=6, patch=16)
    settings = DetectionSettings(
        table=(size, size), samples=samples, checkpointing=checkpointing, batch=batch
    )
    detector = Detector(build_backbone(small, (224, 224)), CLASSES, settings).train()
    optimizer = torch.optim.AdamW(parameter_groups(detector, settings), lr=1e-4, fused=True)
    images = make_batch(size, batch)
    before, seconds, on_cpu = peak(), [], []
    for step in range(rounds + 1):
        start, worked = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), getattr(torch, precision)):
            losses = detector(images, Draws(0, step))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        on_cpu.append(time.process_time() - worked)
    return {"seconds": seconds[1:], "on_cpu": on_cpu[1:], "before": before, "peak": peak()}


def main() -> None:
    """Measure all ways, or the one that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {"size": 512, "batch": 1, "samples": 512, "rounds": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--way", default="", choices=["", *WAYS])
    options = parser.parse_args()
    asked = [getattr(options, name) for name in numbers]
    if options.way:
        print(json.dumps(measure(options.way, *asked)))
        return
    print(machine())
    print("| step | seconds | CPU seconds | peak MiB | MiB before |\n|---|---|---|---|---|")
    given = [text for name in numbers for text in (f"--{name}", str(getattr(options, name)))]
    # Without the instructions a step takes minutes; `--way` measures it all the same.
    native = has_native_bfloat16(torch.device("cpu"))
    for way in (name for name in WAYS if native or "bfloat16" not in name):
        command = [sys.executable, "-m", "benchmarks.detection_step", "--way", way, *given]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        said = verdict({way: found["seconds"]}) or f"{statistics.median(found['seconds']):.1f}"
        worked = statistics.median(found["on_cpu"])
        memory = f"{found['peak']:.0f} | {found['before']:.0f}"
        print(f"| {way} | {said} | {worked:.1f} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
