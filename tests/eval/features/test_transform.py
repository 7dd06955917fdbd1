"""Single images become what the extraction of features makes of them."""

import pickle

import numpy as np
import pytest
import torch
from blobs import blobs, save
from PIL import Image
from random_weights import VIT, write_random

import ibot
from ibot.config.override import apply
from ibot.models.backbone import build_backbone
from ibot.recipes import recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transform")
    save(folder / "photos" / "wide.png", blobs(0, 40, 70))
    save(folder / "photos" / "exact.png", blobs(1, 32, 32))
    Image.fromarray(blobs(2, 50, 41)).convert("L").save(folder / "photos" / "gray.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(blobs(3, 60, 44)).save(folder / "photos" / "lying.jpg", exif=exif)
    settings = [*VIT, "model.mean=0.2,0.4,0.5", "model.std=0.3,0.2,0.1"]
    return folder, write_random(folder / "w.safetensors", *settings)


def test_a_single_image_gives_the_feature_that_the_folder_gives(world):
    folder, weights = world
    features = ibot.extract_features(weights, folder / "photos")  # in the size of the training
    backbone, change = ibot.load_backbone(weights), ibot.transform(weights)
    assert change.view.size == (32, 32) and change.statistics == backbone.statistics
    for row, name in enumerate(features.names):
        path = folder / "photos" / name
        inputs = [change(path), change(str(path)), change(Image.open(path))]
        if name in ("wide.png", "exact.png"):
            inputs.append(change(np.asarray(Image.open(path))))
        for one in inputs:
            assert one.shape == (3, 32, 32) and one.dtype == torch.float32
            with torch.no_grad():
                torch.testing.assert_close(backbone(one[None]).cls[0], features.cls[row])


def test_loader_processes_get_it_and_sizes_can_be_chosen(world):
    _, weights = world
    change = pickle.loads(pickle.dumps(ibot.transform(ibot.load_backbone(weights), size=(24, 40))))
    assert change(blobs(0, 50, 50)).shape == (3, 24, 40)


def test_what_is_no_image_of_the_network_is_refused(world):
    _, weights = world
    backbone = ibot.load_backbone(weights)
    with pytest.raises(ValueError, match="give size="):
        ibot.transform(backbone)
    with pytest.raises(ValueError, match="give size="):
        ibot.extract_features(backbone, world[0] / "photos")
    change = ibot.transform(weights)
    for pixels in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))):
        with pytest.raises(ValueError, match="are no image"):
            change(pixels)


def test_levels_of_other_channels_are_normalised_as_they_are():
    names = ("blue", "nir")
    config = apply(recipe("tiny32"), ["model.width=12", "model.depth=1", "model.heads=2"]).model
    from dataclasses import replace

    config = replace(config, channels=names, mean=(0.5, 2.0), std=(1.0, 4.0))
    change = ibot.transform(build_backbone(config, (32, 32)), 32)
    levels = np.random.default_rng(0).normal(size=(32, 32, 2)).astype(np.float32)
    want = (levels - np.float32([0.5, 2.0])) / np.float32([1.0, 4.0])
    torch.testing.assert_close(change(levels), torch.from_numpy(want).permute(2, 0, 1))
    with pytest.raises(ValueError, match="blue"):
        change(Image.new("RGB", (32, 32)))
