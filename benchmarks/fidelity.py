"""How far fast pixels and those of the device lie from Pillow's, operation by operation.

    python -m benchmarks.fidelity DIR [--draws 1000] [--seed 0]

Cuts random pieces from the images of DIR, gives them to one operation with random strength, and
prints the mean and the largest difference of levels (of 255) from `pixels.render`: of the kernel
in C where it was built, of the plain way, and of the device's, on the CPU. Colours and blur get
pieces of the size of the view, so that nothing is resized.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ibot.config.schema import AugmentConfig
from ibot.data import pixels, pixels_device, pixels_plain
from ibot.data.params import NO_JITTER, view_params
from ibot.data.sets.scan import scan
from ibot.kernels import views as kernel
from ibot.types import ViewParams

Bytes = NDArray[np.uint8]
SIDE = 96
TOGETHER = 25
"""Pieces in one batch."""
OPERATIONS = (
    *(f"resize {scale}" for scale in (0.5, 0.9, 1.2, 1.8, 3.0)),
    *("flips", "turns", "brightness", "contrast", "saturation", "hue", "gray", "solarize"),
    *(f"blur {sigma}" for sigma in (0.1, 0.5, 1.0, 1.5, 2.0)),
    "whole views",
)
SETTINGS = AugmentConfig(
    global_size=(SIDE, SIDE),
    num_global=1,
    num_local=0,
    blur=(0.5, 0.5, 0.5),
    solarize=(0.2, 0.2, 0.2),
)


def unchanged(sizes: Sequence[tuple[int, int]]) -> ViewParams:
    """Parameters of one view of images of `sizes` (height, width) that takes them whole."""
    shape = len(sizes), 1
    no, four = np.zeros(shape, bool), (*shape, 4)
    return ViewParams(
        box=np.array([[(0, 0, *size)] for size in sizes], np.int32),
        flip=no.copy(),
        vertical_flip=no.copy(),
        turn=np.zeros(shape, np.uint8),
        jitter=np.broadcast_to(np.array([1, 1, 1, 0], np.float32), four).copy(),
        jitter_order=np.full(four, NO_JITTER, np.uint8),
        gray=no.copy(),
        blur_sigma=np.zeros(shape, np.float32),
        solarize=no.copy(),
    )


def drawn(operation: str, sizes: Sequence[tuple[int, int]], rng: np.random.Generator) -> ViewParams:
    """Parameters of one view that does nothing but `operation`, of OPERATIONS, to images."""
    if operation == "whole views":
        index = np.arange(len(sizes))
        return view_params(SETTINGS, int(rng.integers(2**31)), 0, index, np.array(sizes))
    params, shape = unchanged(sizes), (len(sizes), 1)
    name, *number = operation.split()
    if name in ("brightness", "contrast", "saturation", "hue"):
        which = ("brightness", "contrast", "saturation", "hue").index(name)
        # The other three change no level, but for the hue, which rounds: all three rows have it.
        params.jitter[..., which] = rng.uniform(*((-0.2, 0.2) if which == 3 else (0.4, 1.6)), shape)
        params.jitter_order[:] = (which, *(i for i in range(4) if i != which))
    elif name == "flips":
        params.flip[:], params.vertical_flip[:] = rng.random((2, *shape)) < 0.5
    elif name == "turns":
        params.turn[:] = rng.integers(0, 4, shape)
    elif name == "blur":
        params.blur_sigma[:] = float(number[0])
    elif name != "resize":
        getattr(params, name)[:] = True
    return params


def pieces(
    images: Sequence[Bytes], operation: str, rng: np.random.Generator, count: int
) -> list[Bytes]:
    """Random pieces of images, of the size of the view, or of `resize`'s scale and shapes."""
    name, *number = operation.split()
    cut = []
    for _ in range(count):
        image = images[int(rng.integers(len(images)))]
        size = np.array([SIDE, SIDE])
        if name == "resize":
            size = np.rint(SIDE * float(number[0]) * rng.uniform(0.8, 1.25, 2)).astype(int)
        elif name == "whole":
            size = np.array(image.shape[:2])
        height, width = np.minimum(size, image.shape[:2])
        top = rng.integers(image.shape[0] - height + 1)
        left = rng.integers(image.shape[1] - width + 1)
        cut.append(image[top : top + height, left : left + width])
    return cut


def compared(
    images: Sequence[Bytes], operation: str, draws: int, seed: int = 0
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """(way: "kernel" where it was built, "plain", "device"; absolute differences) by batches."""
    rng = np.random.default_rng([seed, OPERATIONS.index(operation)])
    for _ in range(0, draws, TOGETHER):
        given = pieces(images, operation, rng, min(TOGETHER, draws))
        params = drawn(operation, [image.shape[:2] for image in given], rng)
        exact = np.stack(
            [pixels.render(image, params, row, SETTINGS)[0] for row, image in enumerate(given)]
        ).transpose(0, 3, 1, 2)
        plain = pixels_plain.render_batch(given, params, SETTINGS, pixels.STD)[0].numpy()
        shapes = np.array([image.shape[:2] for image in given])
        flat = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in given]))
        device = pixels_device.render(flat, shapes, params, SETTINGS, torch.device("cpu"))[0]
        ways = {"plain": plain, "device": device.numpy()}
        if kernel.is_built():
            sizes = 1, SETTINGS.global_size, SETTINGS.local_size
            ways["kernel"] = kernel.make_views(given, params, *sizes)[0][0]
        for way, made in ways.items():
            yield way, np.abs(made.astype(np.int64) - exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = scan(options.data)
    chosen = np.linspace(0, len(source) - 1, min(options.images, len(source))).astype(int)
    images = [source.read(int(i)) for i in chosen]
    print(f"{len(images)} images of {options.data}, {options.draws} draws; of 255: mean / largest")
    print(f"{'operation':<14}{'kernel':>16}{'plain':>16}{'device':>16}")
    for operation in OPERATIONS:
        found: dict[str, list[NDArray[np.int64]]] = {"kernel": [], "plain": [], "device": []}
        for way, differences in compared(images, operation, options.draws, options.seed):
            found[way].append(differences)
        cells = [
            f"{np.mean([d.mean() for d in part]):.4f} / {max(d.max() for d in part)}"
            if part
            else "not built"
            for part in found.values()
        ]
        print(f"{operation:<14}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
