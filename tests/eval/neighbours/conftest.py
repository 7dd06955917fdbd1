"""Small networks with random weights, and pictures that differ."""

import pytest
from random_weights import SWIN, VIT, write_random


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Files of weights, by kind."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        kind: write_random(folder / f"{kind}.safetensors", *settings)
        for kind, settings in (("vit", VIT), ("swin", SWIN))
    }


@pytest.fixture
def places(tmp_path):
    """Where an evaluation may write."""
    return {"out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu", "quiet": True}
