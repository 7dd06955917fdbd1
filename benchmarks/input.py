"""Images per second of the input path on one core, next to the published pipeline's order of work.

    python -m benchmarks.input DIR [--recipe vit_s16] [--images 64] [--rounds 3]

Both read the same files on one thread. "published": torchvision-like transforms one view at a time
in Pillow, masks for every view (spec 2.1 to 2.3). "ours": the loader's micro-batches in this
process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.data.loader import MicroBatches
from ibot.data.sets.scan import scan
from ibot.recipes import recipe


def published_views(image: Image.Image, config: Config) -> list[torch.Tensor]:
    """All views of one image with torchvision's transforms, as the published loader makes them."""
    augment = config.augment
    jitter = T.ColorJitter(*augment.jitter_strength)
    color = [
        T.RandomHorizontalFlip(augment.flip),
        T.RandomApply([jitter], augment.jitter),
        T.RandomGrayscale(augment.gray),
    ]
    end = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    views = []
    for view in range(augment.num_global + augment.num_local):
        is_global = view < augment.num_global
        size, scale = (
            (augment.global_size, augment.global_scale)
            if is_global
            else (augment.local_size, augment.local_scale)
        )
        kind = min(view, 1) if is_global else 2
        crop = T.RandomResizedCrop(size, scale, interpolation=T.InterpolationMode.BICUBIC)
        out = T.Compose([crop, *color])(image)
        if random.random() <= augment.blur[kind]:
            out = out.filter(ImageFilter.GaussianBlur(random.uniform(*augment.blur_sigma)))
        if random.random() < augment.solarize[kind]:
            out = ImageOps.solarize(out)
        views.append(T.Compose(end)(out))
    return views


def run_published(paths: list[Path], config: Config) -> Iterator[None]:
    for path in paths:
        with Image.open(path) as file:
            published_views(file.convert("RGB"), config)
        yield


def rate_published(paths: list[Path], config: Config) -> float:
    began = time.perf_counter()
    count = sum(1 for _ in run_published(paths, config))
    return count / (time.perf_counter() - began)


def rate_ours(batches: MicroBatches, number: int) -> float:
    began = time.perf_counter()
    batch = batches[number]
    return len(batch.index) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--recipe", default="vit_s16")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = scan(options.data)
    config = apply(recipe(options.recipe), [f"train.batch={min(options.images, len(source))}"])
    grid = tuple(side // config.model.patch for side in config.augment.global_size)
    batches = MicroBatches(config, source, grid, 0, 1)  # pyright: ignore[reportArgumentType]
    chosen = np.linspace(0, len(source) - 1, config.train.batch).astype(int)
    paths = [source.path(int(i)) for i in chosen]
    rates = [(rate_published(paths, config), rate_ours(batches, r)) for r in range(options.rounds)]
    theirs, ours = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(o / t for t, o in rates)
    print(f"{options.recipe}, {config.train.batch} images of {options.data}, one core")
    print(
        f"published order of work {theirs:.1f} images/s, ours {ours:.1f} images/s, ratio "
        f"{ratio:.2f}"
    )


if __name__ == "__main__":
    main()
