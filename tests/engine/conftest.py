from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.config.override import apply
from ibot.config.schema import Config
from ibot.recipes import recipe


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """48 small pictures with structure, in a flat folder."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(48):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((24 + i % 3, 24), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="session")
def small(pictures) -> Config:
    """A network that trains in milliseconds: 6 steps per epoch."""
    settings = [
        f"data.path={pictures}",
        "model.width=24",
        "model.depth=2",
        "model.heads=2",
        "model.drop_path=0.1",
        "head.out_dim=32",
        "head.patch_out_dim=32",
        "head.hidden_dim=32",
        "head.bottleneck_dim=16",
        "train.batch=8",
        "train.length=20 steps",
        "log.every=5",
        "checkpoint.every=5 steps",
        "system.workers=0",
        "train.precision=float32",
        "log.tensorboard=false",
        "system.threads=1",
        "system.device=cpu",
    ]
    return replace(apply(recipe("tiny32"), settings), recipe="tiny32")
