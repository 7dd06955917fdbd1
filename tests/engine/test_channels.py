"""Training on images of many channels: from arrays in memory to weights that are read back."""

from dataclasses import replace

import pytest
import torch
from tests.data.in_memory import NAMES, channel_images

from ibot.config.override import apply
from ibot.config.reading import RGB
from ibot.config.resolve import check
from ibot.engine.loop import train
from ibot.engine.start import start_from_weights
from ibot.errors import ConfigError, DataError
from ibot.eval.features.tokens import extract_features
from ibot.method.model import StudentTeacher
from ibot.weights.read import load

OWN = {"channels": NAMES, "mean": (0.21,) * 13, "std": (0.06,) * 13}
SWIN = ["model.kind=swin", "model.patch=2", "model.depths=1,1", "model.stage_heads=2,4"]


def with_channels(config, kind="vit"):
    config = apply(config, ["train.length=3 steps", "augment.global_size=16"])
    if kind == "swin":
        config = apply(config, [*SWIN, "model.window=4", "augment.local_size=8"])
    return replace(config, model=replace(config.model, **OWN))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_networks_of_thirteen_channels_train_and_are_read_back(small, tmp_path, kind):
    images, config = channel_images(24, side=20), with_channels(small, kind)
    state = train(config, tmp_path / "run", source=images, quiet=True)
    assert state.step == 3
    found = load(tmp_path / "run")
    assert found.config.channels == found.backbone.channels == NAMES
    assert found.backbone.statistics == (OWN["mean"], OWN["std"])
    features = extract_features(found.backbone, images, size=16)
    assert features.cls.shape == (24, found.backbone.embed_dim) and features.cls.isfinite().all()


def test_images_of_other_channels_are_refused_before_anything_is_written(small, tmp_path):
    images = channel_images(24, side=20, channels=("x", "y"))
    with pytest.raises(DataError, match=r"other channels than model\.channels reads"):
        train(with_channels(small), tmp_path / "run", source=images, quiet=True)
    assert not (tmp_path / "run").exists()


def test_weights_for_colours_start_a_network_of_other_channels(small, tmp_path):
    train(apply(small, ["train.length=1 steps"]), tmp_path / "colours", quiet=True)
    colours = load(tmp_path / "colours")
    config = apply(small, [f"train.init={tmp_path / 'colours'}"])
    config = replace(config, model=replace(config.model, **OWN))
    model = StudentTeacher(config)
    taken = start_from_weights(model, config)
    assert "patch embedding of 3 channels made one of 13: B02, B03, B04 with their own" in taken
    weight = model.teacher.backbone.patch_embed.proj.weight
    own = colours.backbone.patch_embed.proj.weight
    torch.testing.assert_close(weight.sum(1), own.sum(1))
    torch.testing.assert_close(weight[:, 3], own[:, RGB.index("red")] * 3 / 13)


def test_settings_of_channels_that_cannot_be_are_named(small):
    model = replace(small.model, channels=("a", "b", "a"), mean=(0.5,), std=(1.0, 0.0, 1.0))
    with pytest.raises(ConfigError) as raised:
        check(replace(small, model=model))
    assert "each once" in raised.value.why and "must be positive" in raised.value.why
    assert "model.mean has 1 number for 3 channels" in raised.value.why
    colour = apply(small, ["method.patch_target=color"])
    with pytest.raises(ConfigError, match="needs images in red"):
        check(replace(colour, model=replace(colour.model, **OWN)))
