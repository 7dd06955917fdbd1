"""The false-colour rule, on small arrays and on real files of many channels."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from ibot.data.false_colours import as_rgb
from ibot.errors import MissingExtra
from ibot.show.colours import PALETTE, between_ends, color_table, in_colors


def test_bytes_of_one_to_three_channels_are_taken_as_they_are():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(as_rgb(image), image)
    for gray in (image[..., 0], image[..., :1]):
        np.testing.assert_array_equal(as_rgb(gray), image[..., [0, 0, 0]])
    np.testing.assert_array_equal(as_rgb(image[..., :2]), image[..., [0, 1, 1]])
    as_rgb(image)[:] = 0
    assert image.any(), "the caller's array is not touched"


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64, np.int64])
def test_other_levels_are_stretched_from_percentiles_2_to_98(dtype):
    rng = np.random.default_rng(1)
    image = (rng.normal(size=(40, 50, 3)) * 300 + [3000, 5000, 9000]).astype(dtype)
    low, high = np.percentile(image.reshape(-1, 3).astype(float), (2, 98), axis=0)
    want = np.rint(255 * ((image - low) / (high - low)).clip(0, 1))
    np.testing.assert_array_equal(as_rgb(image), want)


def test_without_stretching_the_range_of_the_type_counts():
    levels = np.array([[0, 32768, 65535]], np.uint16)
    assert as_rgb(levels, stretch=False)[0, :, 0].tolist() == [0, 128, 255]
    assert as_rgb(np.array([[0.0, 0.5, 2.0]]), stretch=False)[0, :, 0].tolist() == [0, 128, 255]


def test_pixels_without_number_are_black_and_do_not_count():
    image = np.random.default_rng(2).random((20, 20, 3)).astype(np.float32)
    want = as_rgb(image[:, 2:])
    image[:, 0], image[:, 1, 1] = np.nan, np.inf
    got = as_rgb(image)
    assert (got[:, :2] == 0).all()
    np.testing.assert_array_equal(got[:, 2:], want)
    for count in (1, 3, 5):
        assert (as_rgb(np.full((3, 3, count), np.nan)) == 0).all()


def test_many_channels_become_their_first_three_components():
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(30, 40, 3)) * [9, 3, 1]
    image = (hidden @ rng.normal(size=(3, 7)) + 5).astype(np.float32)
    got = as_rgb(image)
    pixels = image.reshape(-1, 7).astype(np.float64)
    normal = (pixels - pixels.mean(0)) / pixels.std(0)
    _, _, axes = np.linalg.svd(normal, full_matrices=False)
    for i in range(3):
        axis = axes[i] * np.sign(axes[i][np.abs(axes[i]).argmax()])
        found = normal @ axis
        low, high = np.percentile(found, (2, 98))
        want = 255 * ((found - low) / (high - low)).clip(0, 1)
        assert np.abs(got[..., i].reshape(-1) - want).max() <= 0.51
    np.testing.assert_array_equal(as_rgb(image), got)


def test_channels_may_be_chosen():
    image = np.random.default_rng(4).integers(0, 256, (4, 4, 6), np.uint8)
    np.testing.assert_array_equal(as_rgb(image, channels=(5, 0, 2)), image[..., [5, 0, 2]])


def test_constant_channels_and_rare_bright_pixels_give_numbers():
    assert (as_rgb(np.full((4, 4, 6), 7.0)) == 0).all()
    rare = np.zeros((100, 100), np.uint16)
    rare[3, 3] = 500
    assert as_rgb(rare)[3, 3, 0] == 255 and as_rgb(rare).sum() == 3 * 255


@pytest.mark.parametrize(
    ("image", "channels", "words"),
    [
        (np.zeros(4), None, r"\[H, W\] or \[H, W, C\]"),
        (np.zeros((0, 4, 3)), None, r"not \[0, 4, 3\]"),
        (np.zeros((2, 2), complex), None, "levels are numbers"),
        (np.zeros((2, 2, 5)), (0, 1), "three channels in 0..4"),
        (np.zeros((2, 2, 5)), (0, 1, 5), "three channels in 0..4"),
    ],
)
def test_what_is_no_image_is_refused(image, channels, words):
    with pytest.raises(ValueError, match=words):
        as_rgb(image, channels)


def test_real_images_of_many_channels_show_their_structure(shared_data):
    tifffile = pytest.importorskip("tifffile")
    folder = shared_data / "scientific"
    about = json.loads((folder / "index.json").read_text())
    files = [file for file in sorted(folder.glob("*.tif")) if "slide" not in file.name]
    assert len(files) >= 7
    for file in files:
        image = tifffile.imread(file)
        if "C" in (axes := about[file.name]["axes"]):
            image = np.moveaxis(image, axes.index("C"), -1)
        colours = as_rgb(image)
        assert colours.shape == (*image.shape[:2], 3)
        assert (colours.reshape(-1, 3).std(0) > 20).all(), file.name
        # What the colours show is what the channels show: brightness follows one of them closely.
        first = colours[..., 0].ravel().astype(float)
        channels = image.reshape(first.size, -1).astype(float)
        known = np.isfinite(channels).all(1)
        related = np.corrcoef(np.c_[first, channels][known].T)[0, 1:]
        assert np.abs(related).max() > 0.8, file.name


def test_a_gray_file_of_16_bits_is_one_channel(shared_data):
    folder = shared_data / "scientific" / "cells_6_files"
    with Image.open(sorted(folder.iterdir())[0]) as file:
        image = np.asarray(file)
    colours = as_rgb(image)
    assert (colours[..., 0] == colours[..., 2]).all() and colours.std() > 10


def test_values_between_their_ends_and_in_colours():
    pytest.importorskip("matplotlib")
    values = np.array([[2.0, 4.0], [3.0, 2.0]])
    np.testing.assert_array_equal(between_ends(values), [[0, 1], [0.5, 0]])
    assert (between_ends(np.full((2, 2), 3.0)) == 0).all()
    ends = in_colors(np.array([[0.0, 1.0]]), "viridis")[0]
    assert ends.tolist() == [[68, 1, 84], [253, 231, 37]]
    assert len(set(PALETTE)) == len(PALETTE) >= 12


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    color_table.cache_clear()
    with pytest.raises(MissingExtra, match="matplotlib") as caught:
        in_colors(np.zeros((1, 1)))
    assert caught.value.fix.startswith('pip install "matplotlib>=')
