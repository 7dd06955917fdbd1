"""Six striped images: one smaller than the crop, one of a single class, pixels left out."""

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.annotated.label_maps import open_label_maps
from ibot.models.backbone import build_backbone

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
SIZES = ((40, 56), (48, 33), (9, 50), (40, 40), (37, 41), (64, 32))
CONFIGS = {
    "vit": ModelConfig(width=24, depth=4, heads=3, patch=8, pos_size=(32, 32)),
    "swin": ModelConfig(
        kind="swin",
        width=8,
        depths=(1, 1, 1, 1),
        stage_heads=(1, 1, 2, 2),
        window=4,
        patch=1,
        pos_size=(32, 32),
    ),
}
"""Cells of 8 pixels."""


def write_stripes(folder, parts=("train", "val"), seed=0):
    """Images whose colour says the class; a row of pixels is left out."""
    random = np.random.default_rng(seed)
    for part in parts:
        for place in (part, f"{part}annot"):
            (folder / place).mkdir(parents=True)
        for i, (height, width) in enumerate(SIZES):
            labels = np.broadcast_to(np.arange(width) * 3 // width, (height, width))
            labels = np.roll(labels, random.integers(width), axis=1).astype(np.uint8).copy()
            if i == 3:
                labels[:] = 1
            noise = random.integers(0, 40, (height, width, 3))
            Image.fromarray((COLOURS[labels] + noise).astype(np.uint8)).save(
                folder / part / f"{i}.png"
            )
            labels[height // 2] = 255
            Image.fromarray(labels).save(folder / f"{part}annot" / f"{i}.png")
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    return folder


@pytest.fixture(scope="session")
def stripes(tmp_path_factory):
    return write_stripes(tmp_path_factory.mktemp("stripes"))


@pytest.fixture(scope="session")
def striped(stripes):
    return open_label_maps(str(stripes))


@pytest.fixture
def network():
    def build(kind="vit"):
        torch.manual_seed(0)
        return build_backbone(CONFIGS[kind], (32, 32)).eval()

    return build
