"""What makers say of GPUs that a run may be planned for: dense peaks, memory, links.

Peaks are of dense products, of the form in servers (SXM) where there is one; what a training
reaches of them is another matter (`ibot.studies.forecast`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A device by its data sheet, or by what was measured of it."""

    name: str
    bfloat16: float
    """Products in TFLOP/s; 0 where there are none: `train.precision=auto` is float32 then."""
    float16: float
    float32: float
    """Without TF32, as torch multiplies float32 by default."""
    memory: float
    """GiB that a program sees."""
    bandwidth: float
    """TB/s of its memory."""
    link: float
    """GB/s in each direction to the others of its machine."""
    network: float
    """GB/s in each direction to other machines, for one device: what such machines mostly have."""
    measured: bool = False
    """Whether the rates were measured here."""
    gpu: bool = True

    def precision(self, wanted: str) -> str:
        """Of the products, for a value of `train.precision`."""
        if wanted != "auto":
            return wanted
        return "bfloat16" if self.bfloat16 else "float32"

    def peak(self, precision: str) -> float:
        """TFLOP/s in that precision; 0: it has none."""
        return {"bfloat16": self.bfloat16, "float16": self.float16, "float32": self.float32}[
            precision
        ]


def _gpu(name: str, peaks: tuple[float, float, float], memory: float, *rates: float) -> Accelerator:
    (bfloat16, float16, float32), (bandwidth, link, network) = peaks, rates
    return Accelerator(
        name=name,
        bfloat16=bfloat16,
        float16=float16,
        float32=float32,
        memory=memory,
        bandwidth=bandwidth,
        link=link,
        network=network,
    )


ACCELERATORS: dict[str, Accelerator] = {
    "a100-40": _gpu("A100 40 GB", (312, 312, 19.5), 39.5, 1.56, 300, 25),
    "a100-80": _gpu("A100 80 GB", (312, 312, 19.5), 79.3, 2.04, 300, 25),
    "h100": _gpu("H100 SXM", (989, 989, 67), 79.6, 3.35, 450, 50),
    "h200": _gpu("H200 SXM", (989, 989, 67), 140.4, 4.8, 450, 50),
    "b200": _gpu("B200", (2250, 2250, 75), 179.0, 7.7, 900, 50),
    "l4": _gpu("L4", (121, 121, 30.3), 22.5, 0.3, 32, 12.5),
    "rtx4090": _gpu("RTX 4090", (165, 165, 82.6), 23.6, 1.01, 32, 12.5),
    "v100": _gpu("V100 32 GB", (0, 125, 15.7), 31.7, 0.9, 150, 12.5),
}
"""By the name that `ibot plan --device` takes."""
