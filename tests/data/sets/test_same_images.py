"""The same pictures give the same batches, whatever they lie in."""

import numpy as np
import pytest
import torch
from image_forms import FORMS, write_parts

from ibot.config.reading import DataConfig
from ibot.config.schema import AugmentConfig, Config, SystemConfig, TrainConfig
from ibot.data.loader import Loader
from ibot.data.sets.open import find_labelled, open_images, open_labelled

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def parts():
    pixels = np.random.default_rng(0).integers(0, 256, (15, 20, 24, 3), dtype=np.uint8)
    labels = [0] * 4 + [1] * 4 + [2] * 4 + [0, 1, 2]
    return {"train": (pixels[:12], labels[:12]), "val": (pixels[12:], labels[12:])}


@pytest.fixture(scope="module")
def places(parts, tmp_path_factory):
    root = tmp_path_factory.mktemp("forms")
    return {form: write_parts(form, root / form, parts, CLASSES) for form in FORMS}


def batches(source, workers=0):
    augment = AugmentConfig(num_local=2, global_size=(16, 16), local_size=(8, 8))
    config = Config(
        augment=augment,
        data=DataConfig(pixels="exact"),
        train=TrainConfig(batch=4),
        system=SystemConfig(workers=workers),
    )
    return [part for step in Loader(config, source, grid=(2, 2), end_step=4) for part in step]


@pytest.mark.parametrize("form", FORMS)
def test_batches_and_labels_are_equal_to_the_last_bit(form, places, parts):
    train, val = open_labelled(places[form])
    assert train.classes == val.classes == CLASSES
    for images, (pixels, labels) in zip((train, val), parts.values(), strict=True):
        assert images.labels.tolist() == labels and len(images) == len(pixels)
        for i, picture in enumerate(pixels):
            assert np.array_equal(images.read(i), picture) and images.size(i) == (20, 24)
    for got, wanted in zip(batches(train), batches(open_images(places["folder"])), strict=True):
        assert torch.equal(got.global_views, wanted.global_views) and got.bad == ()
        assert torch.equal(got.local_views, wanted.local_views)
        assert np.array_equal(got.index, wanted.index)
        assert np.array_equal(got.content, wanted.content)


@pytest.mark.parametrize("form", ["parquet", "arrow", "npy", "zarr", "webdataset"])
def test_forked_workers_read_the_same_and_training_sees_the_validation_part(form, places):
    train, val = find_labelled(places[form])
    [train.read(i) for i in range(12)]  # what a process remembers is there before the fork
    for got, wanted in zip(batches(train, 2), batches(open_images(places["folder"])), strict=True):
        assert torch.equal(got.global_views, wanted.global_views)
    assert (len(val), val.label(2)) == (3, 2) and type(open_images(places[form])) is type(train)


@pytest.mark.parametrize("form", ["parquet", "arrow", "npy", "zarr"])
def test_images_of_every_form_can_be_split_and_named_again(form, places):
    images = open_images(places[form])
    names = [images.name(i) for i in range(12)]
    assert len(set(names)) == 12 and images.fingerprint() == open_images(places[form]).fingerprint()
    noted = images.provenance()
    assert noted == open_images(places[form]).provenance() and noted["classes"] == 3
