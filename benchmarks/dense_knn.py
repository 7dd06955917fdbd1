"""Cost of dense_knn per image: python -m benchmarks.dense_knn [--size 512] [--bank 100000]

ViT-S/16 with random weights on noise; one image at a time, through the network, then the search of
its patches in a bank, then votes enlarged to a label map. Each part in interleaved rounds, in one
process; memory is the resident peak, beyond what network and bank hold.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from benchmarks.rounds import interleaved, machine, spread, verdict
from ibot.config.schema import ModelConfig
from ibot.eval.neighbours.nearest import nearest, unit_rows
from ibot.eval.probes.dense_vote import enlarged, voted
from ibot.eval.probes.patch_tokens import encoder
from ibot.models.backbone import build_backbone

K, TEMPERATURE, CLASSES = 30, 0.02, 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="pixels of the shorter side")
    parser.add_argument("--bank", type=int, default=100_000, help="labelled patches")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    height, width = options.size, options.size * 4 // 3 // 16 * 16
    backbone = build_backbone(ModelConfig(), (224, 224)).eval()
    encode = encoder(backbone, "network")
    image = torch.randn(1, 3, height, width)
    bank = unit_rows(torch.randn(options.bank, backbone.embed_dim))
    shares = torch.rand(options.bank, CLASSES).softmax(dim=1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of drawing numbers
    held = _resident("VmRSS")
    with torch.inference_mode():
        rows, grid = encode(image)
        found = nearest(bank, unit_rows(rows[0]), K)
        labels = voted(*found, shares, TEMPERATURE)
        seconds = interleaved(
            {
                "network": lambda: encode(image),
                "search": lambda: nearest(bank, unit_rows(rows[0]), K),
                "votes": lambda: voted(*found, shares, TEMPERATURE),
                "enlarging": lambda: enlarged(labels, grid, (height, width)),
            },
            options.rounds,
        )
    print(machine())
    print(
        f"{height} x {width} pixels, {len(labels)} patches of width {backbone.embed_dim}, bank of "
        f"{options.bank}, {CLASSES} classes"
    )
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} s per image (spread {spread(values):.0%})")
    print(verdict(seconds) or f"in all {sum(map(statistics.median, seconds.values())):.2f} s")
    stored = 4 * (bank.numel() + shares.numel()) / 2**20
    print(f"bank {stored:.0f} MiB; {_resident('VmHWM') - held:.0f} MiB beyond it for one image")


def _resident(key: str) -> float:
    """Memory of this process in MiB: VmRSS now, VmHWM the peak since it was cleared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


if __name__ == "__main__":
    main()
