"""Files of weights of random networks, as a run exports them."""

import json

import torch
from safetensors.torch import save_file

from ibot.config.override import apply, to_plain
from ibot.method.model import Teacher
from ibot.recipes import recipe

VIT = ("model.width=24", "model.depth=2", "model.heads=3", "model.patch=8")
SWIN = (
    *("model.kind=swin", "model.width=8", "model.depths=1,1", "model.stage_heads=1,2"),
    *("model.window=4", "model.patch=4"),
)


def write_random(file, *settings, base="tiny32", times=1):
    """A teacher of the recipe `base` with other settings and a small head; returns the file.

    times: matrices are multiplied by it: fresh ones hardly tell images apart.
    """
    config = apply(recipe(base), [*settings, "head.out_dim=10", "head.patch_out_dim=10"])
    torch.manual_seed(0)
    network = Teacher(config).state_dict()
    tensors = {name: value * (times if value.ndim > 1 else 1) for name, value in network.items()}
    save_file(tensors, file, {"config": json.dumps(to_plain(config))})
    return file
