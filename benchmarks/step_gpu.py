"""Images/s and memory of a training step on a GPU: python -m benchmarks.step_gpu [--out FILE]

ViT-S/16 at the published crops, bfloat16, batches of 32 and 64 on one device; 20 warm-up steps, 50
timed ones between events, nothing read back inside.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from benchmarks.step import VALUES, make_batch
from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.engine.optimizer import build_optimizer
from ibot.engine.transfer import to_device
from ibot.engine.update import Update
from ibot.method.model import StudentTeacher
from ibot.system.device import autocast, describe_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="benchmarks/results/step_gpu.jsonl")
    options = parser.parse_args()
    device = torch.device("cuda", 0)
    for size in (32, 64):
        config = apply(Config(), [f"train.batch={size}"])
        model = StudentTeacher(config).to(device)
        precision = partial(autocast, device, torch.bfloat16)
        update = Update(
            model=model,
            student=model.student,
            optimizer=build_optimizer(model.student, config.optim),
            config=config,
            autocast=precision,
        )
        batch = to_device(make_batch(config), device, config)
        for _ in range(20):
            update.step([batch], VALUES)
        torch.cuda.reset_peak_memory_stats()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(50):
            update.step([batch], VALUES)
        end.record()
        torch.cuda.synchronize()
        seconds = start.elapsed_time(end) / 50e3
        memory = torch.cuda.max_memory_allocated() / 2**30
        row = {
            "batch": size,
            "seconds": seconds,
            "images_per_second": size / seconds,
            "peak_gib": memory,
        }
        print(describe_device(device), row, flush=True)
        with Path(options.out).open("a") as file:
            file.write(
                json.dumps({**row, "device": describe_device(device), "torch": torch.__version__})
                + "\n"
            )


if __name__ == "__main__":
    main()
