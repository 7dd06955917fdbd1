"""The order of work of the published loader: torchvision's transforms one view at a time in Pillow,
normalised floats, and a mask for every view, though only those of the global ones are used (spec
2.1 to 2.3).
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

from ibot.config.schema import Config

ATTEMPTS = 10
LOG_ASPECT = math.log(1 / 0.3)


def published_input(
    path: Path, config: Config
) -> tuple[list[torch.Tensor], list[NDArray[np.bool_]]]:
    """All views of one file [3, h, w] and a mask for each of them."""
    with Image.open(path) as file:
        views = published_views(file.convert("RGB"), config)
    patch = config.model.stride
    return views, [
        published_mask(config, view.shape[1] // patch, view.shape[2] // patch) for view in views
    ]


def published_views(image: Image.Image, config: Config) -> list[torch.Tensor]:
    """All views of one image, global ones first."""
    augment = config.augment
    jitter = T.ColorJitter(*augment.jitter_strength)
    color = [
        T.RandomHorizontalFlip(augment.flip),
        T.RandomApply([jitter], augment.jitter),
        T.RandomGrayscale(augment.gray),
    ]
    end = [T.ToTensor(), T.Normalize(config.model.mean, config.model.std)]
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


def published_mask(config: Config, height: int, width: int) -> NDArray[np.bool_]:
    """Blocks, or patches by themselves, that hide a drawn share of a grid: bool [height, width]."""
    ratios = [
        random.uniform(mean - spread, mean + spread) if spread > 0 else mean
        for mean, spread in config.mask.ratio
    ]
    target = (random.choice(ratios) if len(ratios) > 1 else ratios[0]) * height * width
    if config.mask.shape == "block":
        return _blocks(target, height, width)
    flat = np.zeros(height * width, bool)
    flat[len(flat) - int(target) :] = True
    np.random.shuffle(flat)
    return flat.reshape(height, width)


def _blocks(target: float, height: int, width: int) -> NDArray[np.bool_]:
    """Rectangles, each tried ten times and set cell by cell, until `target` cells are hidden."""
    mask = np.zeros((height, width), bool)
    low, count = (min(height, width) // 3) ** 2, 0
    while count < target:
        room, added = target - count, 0
        for _ in range(ATTEMPTS):
            area = random.uniform(low, room)
            aspect = math.exp(random.uniform(-LOG_ASPECT, LOG_ASPECT))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if wide < width and tall < height:
                top, left = random.randint(0, height - tall), random.randint(0, width - wide)
                new = tall * wide - int(mask[top : top + tall, left : left + wide].sum())
                if 0 < new <= room:
                    for row in range(top, top + tall):
                        for column in range(left, left + wide):
                            if not mask[row, column]:
                                mask[row, column] = True
                                added += 1
            if added:
                break
        if not added:
            break
        count += added
    return mask
