"""Random networks."""

import pytest
from random_weights import SWIN, VIT, write_random


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Files of a random ViT and a random Swin, by name."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        name: write_random(folder / f"{name}.safetensors", *settings, times=3)
        for name, settings in (("vit", VIT), ("swin", SWIN))
    }
