"""Fixtures that tests of commands share, some with those of the packages below."""

import pytest
from random_weights import write_random
from recorded import show
from searched_folder import find, scenes, weights

__all__ = ["find", "scenes", "show", "weights"]

NARROW = ["model.width=24", "model.depth=1", "model.heads=3", "model.patch=16"]


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """A file of a random network of one block, for images of 32 pixels."""
    return write_random(tmp_path_factory.mktemp("weights") / "small.safetensors", *NARROW)
