"""Random networks."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ibot.config.override import apply, to_plain
from ibot.method.model import Teacher
from ibot.recipes import recipe

COMMON = ["head.out_dim=10", "head.patch_out_dim=10", "head.hidden_dim=16"]
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
    """Files of a random ViT and a random Swin, by name."""
    folder, files = tmp_path_factory.mktemp("networks"), {}
    for name, settings in NETWORKS.items():
        config = apply(recipe("tiny32"), [*settings, *COMMON])
        torch.manual_seed(0)
        tensors = {k: v * (3 if v.ndim > 1 else 1) for k, v in Teacher(config).state_dict().items()}
        files[name] = folder / f"{name}.safetensors"
        save_file(tensors, files[name], {"config": json.dumps(to_plain(config))})
    return files
