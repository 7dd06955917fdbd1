"""The two losses with the last layer: whole logits against a few rows at a time, interleaved.

    python -m benchmarks.losses [--device cuda] [--dims 8192 65536] [--images 64] [--json FILE]

Rows as of a step of G = 2 global and L = 10 local views of 224 and 96 pixels at patch 16: class
tokens of all views, and 15 % of the patches of the global ones; bottleneck 256. Prints for each
number of prototypes the median milliseconds of forward and backward pass and, on a GPU, the peak of
memory above what was there.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch.nn.functional import normalize

from benchmarks.rounds import append_row, interleaved
from ibot.method.fused import PLAIN, fused_cls_loss, fused_patch_loss, triton_rows
from ibot.method.losses import cls_loss, patch_loss
from ibot.method.targets import Targets
from ibot.models.head import Scored
from ibot.system.device import describe_device

GLOBAL, LOCAL, PATCHES, WIDTH, HIDDEN = 2, 10, 196, 256, 0.15


def make_variants(images: int, dim: int, device: torch.device) -> dict:
    """Name -> a function that runs both losses forward and backward."""

    def unit(*shape: int) -> torch.Tensor:
        return normalize(torch.randn(*shape, WIDTH, device=device), dim=-1)

    masked = int(GLOBAL * images * PATCHES * HIDDEN)
    z_cls = unit(GLOBAL + LOCAL, images).requires_grad_()
    z_patch, weight = unit(masked).requires_grad_(), unit(dim).requires_grad_()
    share = torch.full((masked,), GLOBAL * images / masked, device=device)
    center, theirs = torch.zeros(dim, device=device), unit(dim)
    targets = [
        Targets(source=Scored(rows, theirs), center=center, temp=0.05)
        for rows in (unit(GLOBAL, images), unit(masked))
    ]

    def plain() -> None:
        cls, patch = (Scored(z, weight).logits() for z in (z_cls, z_patch))
        of_cls, of_patch = (target.probs() for target in targets)
        loss = cls_loss(cls, of_cls, 0.1)
        (loss + patch_loss(patch, of_patch, share, GLOBAL * images, 0.1)).backward()
        done()

    def fused(functions) -> None:
        cls, patch = Scored(z_cls, weight), Scored(z_patch, weight)
        loss = fused_cls_loss(cls, targets[0], 0.1, functions=functions)
        views = GLOBAL * images
        loss = loss + fused_patch_loss(patch, targets[1], share, views, 0.1, functions=functions)
        loss.backward()
        done()

    def done() -> None:
        z_cls.grad = z_patch.grad = weight.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    variants = {"whole logits": plain, "in chunks": lambda: fused(PLAIN)}
    if device.type == "cuda":
        variants["in chunks, Triton"] = lambda: fused(triton_rows())
    return variants


def peak_mib(run, device: torch.device) -> float | None:
    """Of a GPU, above what is held before."""
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dims", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="rows are appended as they come")
    options = parser.parse_args()
    device = torch.device(options.device)
    for dim in options.dims:
        variants = make_variants(options.images, dim, device)
        seconds = interleaved(variants, options.rounds)
        for name, run in variants.items():
            row = {"case": f"losses K={dim}", "variant": name, "images": options.images}
            row |= {"seconds": statistics.median(seconds[name]), "peak_mib": peak_mib(run, device)}
            row["device"] = describe_device(device)
            memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:8.0f} MiB"
            print(f"K {dim:6} {name:20} {1000 * row['seconds']:9.2f} ms {memory}", flush=True)
            if options.json:
                append_row(options.json, "losses", row)


if __name__ == "__main__":
    main()
