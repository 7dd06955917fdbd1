"""Fixtures that tests of commands share, some with those of the packages below."""

import json

import pytest
import torch
from recorded import show
from safetensors.torch import save_file
from searched_folder import find, scenes, weights

from ibot.config.override import apply, to_plain
from ibot.method.model import Teacher
from ibot.recipes import recipe

__all__ = ["find", "scenes", "show", "weights"]

NARROW = ["model.width=24", "model.depth=1", "model.heads=3", "model.patch=16"]


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """A file of a random network of one block, for images of 32 pixels."""
    config = apply(recipe("tiny32"), [*NARROW, "head.out_dim=10", "head.patch_out_dim=10"])
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(Teacher(config).state_dict(), file, {"config": json.dumps(to_plain(config))})
    return file
