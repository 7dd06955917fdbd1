"""What tests of several pictures share."""

import pytest
from random_weights import VIT, write_random


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a random network."""
    return write_random(tmp_path_factory.mktemp("weights") / "vit.safetensors", *VIT, times=4)
