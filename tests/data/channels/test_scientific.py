"""Every real file of many channels, against the values that were measured of it."""

import json

import numpy as np
import pytest

from ibot.config.reading import Channels
from ibot.data.channels.read import read_header, read_levels
from ibot.data.channels.statistics import statistics_of
from ibot.data.channels.stored import How
from ibot.data.sets.open import open_images

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

FILES = [
    "s2_13band_uint16_interleaved.tif",
    "s2_13band_uint16_planar.tif",
    "s2_13pages_uint16.tif",
    "s2_6band_uint16_interleaved.tif",
    "s2_rgb_float32.tif",
    "s2_ndvi_float32_with_nan.tif",
    "cells_6channel_uint8_planar.tif",
    "worms_uint16.png",
    "worms_2channel_uint16.tif",
    pytest.param("slide_tiled_4608_rgb.tif", marks=pytest.mark.slow),
]
RANGE = {"uint8": 255, "uint16": 65535, "float32": 1}


@pytest.fixture(scope="module")
def scientific(shared_data):
    folder = shared_data / "scientific"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_the_index(scientific, name):
    wanted = json.loads((scientific / "index.json").read_text())[name]
    with (scientific / name).open("rb") as file:
        header = read_header(file, How())
        file.seek(0)
        levels = read_levels(file, How())
    axes, shape = wanted["axes"], wanted["shape"]
    sides = tuple(shape[axes.index(axis)] for axis in "YX")
    count = shape[axes.index("C")] if "C" in axes else 1
    assert levels.values.shape == (*sides, count) == (header.height, header.width, count)
    assert levels.names == header.names and len(levels.names) == count
    values = levels.values.reshape(-1, count).astype(np.float64) * RANGE[wanted["dtype"]]
    assert np.isnan(values).sum() == wanted["nan"]
    for found, key in (
        (np.nanmin(values, 0), "min"),
        (np.nanmax(values, 0), "max"),
        (np.nanmean(values, 0), "mean"),
        (np.nanstd(values, 0), "std"),
    ):
        assert found == pytest.approx(np.array(wanted[key]).reshape(-1), rel=2e-6, abs=1e-6), key


def test_a_stack_has_the_values_and_statistics_of_the_index(scientific, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "s2_stack_5x101x100x13_uint16.npy"
    wanted = json.loads((scientific / "index.json").read_text())[name]
    images = open_images(str(scientific / name), channels=Channels("all"))
    stored = np.load(scientific / name)
    for i in range(len(images)):
        np.testing.assert_allclose(images.read(i) * 65535, stored[i], rtol=1e-6)
    mean, std = statistics_of(images)
    assert np.array(mean) * 65535 == pytest.approx(np.array(wanted["mean"]), rel=1e-6)
    assert np.array(std) * 65535 == pytest.approx(np.array(wanted["std"]), rel=1e-6)


def test_all_ways_to_lay_out_the_same_cells_agree(scientific):
    with (scientific / "cells_6channel_uint8_planar.tif").open("rb") as file:
        planar = read_levels(file, How()).values
    for number in range(6):
        with (scientific / "cells_6_files" / f"AA41_s1_{number + 1}.jp2").open("rb") as file:
            assert read_header(file, How()).names == ("1",)
            file.seek(0)
            one = read_levels(file, How()).values
        assert np.array_equal(one[..., 0], planar[..., number])
