"""Small networks with random weights, and pictures that differ."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ibot.config.override import apply, to_plain
from ibot.method.model import Teacher
from ibot.recipes import recipe

NETWORKS = {
    "vit": ["model.width=24", "model.depth=2", "model.heads=3", "model.patch=8"],
    "swin": [
        "model.kind=swin",
        "model.width=8",
        "model.depths=1,1",
        "model.stage_heads=1,2",
        "model.window=4",
        "model.patch=4",
    ],
}


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Files of weights, by kind."""
    folder, files = tmp_path_factory.mktemp("networks"), {}
    for kind, changes in NETWORKS.items():
        config = apply(recipe("tiny32"), [*changes, "head.out_dim=10", "head.patch_out_dim=10"])
        torch.manual_seed(0)
        files[kind] = folder / f"{kind}.safetensors"
        about = {"config": json.dumps(to_plain(config))}
        save_file(Teacher(config).state_dict(), files[kind], about)
    return files


@pytest.fixture
def places(tmp_path):
    """Where an evaluation may write."""
    return {"out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu", "quiet": True}
