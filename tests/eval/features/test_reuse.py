"""A set that grew, shrank or got labels takes the rows that the cache has of its images."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.sets.class_folders import open_folder
from ibot.data.sets.scan import scan
from ibot.data.sets.subsets import SubsetImages
from ibot.eval.features import cache
from ibot.eval.features.cache import cached_features
from ibot.eval.features.tokens import CLASS_TOKEN, compute
from ibot.eval.features.views import View
from ibot.models.backbone import build_backbone


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_backbone(ModelConfig(width=24, depth=1, heads=2, patch=8), (32, 32)).eval()


def add(folder, name, seed):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def features(network, tmp_path, monkeypatch):
    """Features of a set, and how many images went through the network for them."""
    seen = []

    def counting(backbone, batch, wanted):
        seen.append(len(batch))
        return compute(backbone, batch, wanted)

    monkeypatch.setattr(cache, "compute", counting)

    def run(images, weights="weights", place="cache"):
        seen.clear()
        found = cached_features(
            network, weights, images, View((32, 32)), (CLASS_TOKEN,), tmp_path / place, batch=4
        )[CLASS_TOKEN]
        return found, sum(seen[1:])  # the first asks for the width

    return run


def test_only_new_images_are_computed_wherever_they_stand(features, tmp_path):
    folder = tmp_path / "photos"
    for i in range(9):
        add(folder, f"m{i}.png", i)
    assert features(scan(folder))[1] == 9
    add(folder, "a.png", 20)
    add(folder, "m4a.png", 21)
    add(folder, "z.png", 22)
    (folder / "m0.png").unlink()
    found, computed = features(scan(folder))
    assert computed == 3 and found.known == 8 and not found.cached
    fresh, everything = features(scan(folder), place="fresh")
    assert everything == 11 and fresh.known == 0
    torch.testing.assert_close(found.rows, fresh.rows, rtol=1e-4, atol=1e-5)
    again, computed = features(scan(folder))
    assert again.cached and computed == 0 and again.known == 11


def test_changed_files_other_weights_and_files_of_the_same_name_elsewhere_are_computed(
    features, tmp_path
):
    folder = tmp_path / "photos"
    for i in range(4):
        add(folder, f"{i}.png", i)
        os.utime(folder / f"{i}.png", (10**9, 10**9))
    features(scan(folder))
    assert features(scan(folder), weights="others")[1] == 4
    other = tmp_path / "other"
    for i in range(5):  # same names, sizes and times, other pixels
        add(other, f"{i}.png", 50)
        shutil.copystat(folder / "0.png", other / f"{i}.png")
    assert features(scan(other))[1] == 5
    add(folder, "4.png", 4)
    add(folder, "2.png", 77)
    found, computed = features(scan(folder))
    assert computed == 2 and found.known == 3


def test_labels_and_parts_change_nothing(features, tmp_path):
    for name in ("cat", "dog"):
        for i in range(3):
            add(tmp_path / "animals" / name, f"{i}.png", i)
    whole = scan(tmp_path / "animals")
    assert features(whole)[1] == 6
    labelled = open_folder(tmp_path / "animals")
    assert labelled.fingerprint() != whole.fingerprint() and features(labelled)[1] == 0
    found, computed = features(SubsetImages(labelled, [5, 1]))
    assert computed == 0
    torch.testing.assert_close(found.rows, features(whole)[0].rows[[5, 1]])


def test_what_cannot_be_read_is_not_taken_for_known(features, tmp_path):
    folder = tmp_path / "photos"
    for i in range(3):
        add(folder, f"{i}.png", i)
    (folder / "broken.png").write_bytes(b"no image")
    features(scan(folder))
    add(folder, "3.png", 3)
    found, computed = features(scan(folder))
    assert computed == 1 and found.known == 3 and [name for name, _ in found.bad] == ["broken.png"]
