"""Label propagation of a frame: windows of tiles against the full affinity.

python -m benchmarks.video [--rounds 5] [--grid 30 52] [--objects 2]

Random unit tokens of ViT-S/16 at 480p (30 x 52, 384 wide) with eight source frames, as the
published protocol has from the eighth frame on; beside them the tokens of one frame through the
network itself, not trained, and its mask from the soft map. Interleaved rounds in one process, all
of them, medians and spread; rounds that differ by more than 10 % are called no result. Peak memory
of each way in a process of its own, above that of the tokens.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys

import numpy as np
import torch

from benchmarks.rounds import interleaved, machine, ratios, shown, verdict
from ibot.config.schema import ModelConfig
from ibot.eval.dense.video.frame_tokens import frame_tokens, mask_from_soft
from ibot.eval.dense.video.propagate import Rule, Source, propagate, propagate_plainly
from ibot.models.backbone import build_backbone

WIDTH, PATCH, SOURCES = 384, 16, 8
WAYS = {"windows": propagate, "full affinity": propagate_plainly}


def case(height: int, width: int, objects: int) -> tuple[torch.Tensor, list[Source]]:
    """Tokens of a frame, and its sources."""
    generator = torch.Generator().manual_seed(0)

    def tokens() -> torch.Tensor:
        rows = torch.randn(height, width, WIDTH, generator=generator)
        return torch.nn.functional.normalize(rows, dim=-1)

    soft = torch.rand(SOURCES, height, width, 1 + objects, generator=generator).softmax(-1)
    return tokens(), [Source(tokens(), one) for one in soft]


@torch.no_grad()
def run(way: str, given: tuple[torch.Tensor, list[Source]]) -> torch.Tensor:
    return WAYS[way](*given, Rule())


def network(height: int, width: int):
    """Makes the tokens of one frame."""
    backbone = build_backbone(ModelConfig(), (224, 224)).eval()
    frame = np.random.default_rng(0).integers(0, 256, (480, 854, 3)).astype(np.uint8)
    size = PATCH * height, PATCH * width
    return torch.no_grad()(
        functools.partial(frame_tokens, frame, size, backbone, backbone.statistics)
    )


def peak_memory(way: str, height: int, width: int, objects: int) -> float:
    """MiB above the tokens that one frame needs, in a new process."""
    code = f"""
from benchmarks.video import case, run
def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
given = case({height}, {width}, {objects})
run({way!r}, case(3, 3, 1))  # what libraries take on their first call
before = peak()
run({way!r}, given)
print(peak() - before)
"""
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grid", type=int, nargs=2, default=(30, 52), metavar=("H", "W"))
    parser.add_argument("--objects", type=int, default=2)
    options = parser.parse_args()
    height, width = options.grid
    given = case(height, width, options.objects)
    found = {name: run(name, given) for name in WAYS}
    apart = (found["windows"] - found["full affinity"]).abs().max()
    print(machine())
    print(f"{height} x {width} tokens, {SOURCES} sources; soft maps differ by at most {apart:.1e}")
    ways = {name: functools.partial(run, name, given) for name in WAYS}
    ways["network"] = network(height, width)
    numbers, size = tuple(range(1, 1 + options.objects)), (480, 854)
    ways["mask"] = functools.partial(mask_from_soft, found["windows"], numbers, PATCH, size)
    seconds = interleaved(ways, options.rounds)
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.3f} s a frame; rounds {shown(values)}")
    each = ratios(seconds, "full affinity", "windows")
    failed = verdict({name: seconds[name] for name in WAYS})
    print(
        f"full affinity / windows: {failed or f'{statistics.median(each):.2f}'}; rounds "
        f"{shown(each)}"
    )
    for name in WAYS:
        used = peak_memory(name, height, width, options.objects)
        print(f"{name}: {used:.0f} MiB above the tokens")


if __name__ == "__main__":
    main()
