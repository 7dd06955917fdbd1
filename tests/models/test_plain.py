"""Plain images in the place of a network, beside numpy on fresh random images."""

import numpy as np
import pytest
import torch

from ibot.data.pixels import normalize
from ibot.models.plain import BINS, LEVEL_BINS, Colours, Pixels

STATISTICS = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture
def pictures():
    """uint8 [5, 3, 64, 96]."""
    random = np.random.default_rng()
    return torch.from_numpy(random.integers(0, 256, (5, 3, 64, 96), dtype=np.uint8))


def test_pixels_are_means_over_areas_each_with_its_own_mean_and_deviation(pictures):
    images = normalize(pictures, STATISTICS)
    pixels = Pixels(STATISTICS)
    raw = pixels(images).cls
    areas = images.numpy().reshape(5, 3, 32, 2, 32, 3).mean((3, 5)).reshape(5, -1)
    assert np.allclose(raw, areas, atol=1e-5)
    bank = raw[:3]
    found = pixels.fitted(bank)(images)
    expected = (areas - areas[:3].mean(0)) / areas[:3].std(0, ddof=1)
    assert np.allclose(found.cls, expected, atol=1e-2, rtol=1e-3)
    assert torch.equal(found.cls, pixels.standardised(raw))
    assert found.grid == (1, 1) and torch.equal(found.patches[:, 0], found.cls)


def test_a_bank_of_one_image_has_no_deviation_and_gives_numbers_all_the_same(pictures):
    images = normalize(pictures, STATISTICS)
    pixels = Pixels(STATISTICS)
    assert pixels.fitted(pixels(images[:1]).cls)(images).cls.isfinite().all()


def test_pixels_do_not_depend_on_how_images_are_normalised(pictures):
    """Once they are standardised, as beside networks of different statistics."""
    found = []
    for statistics in (STATISTICS, ((0.0,) * 3, (1.0,) * 3)):
        images, pixels = normalize(pictures, statistics), Pixels(statistics)
        found.append(pixels.fitted(pixels(images).cls)(images).cls)
    assert torch.allclose(*found, atol=1e-3)


@pytest.mark.parametrize("statistics", [STATISTICS, ((0.0,) * 3, (1.0,) * 3)])
def test_colours_are_the_joint_histogram_of_bytes(pictures, statistics):
    rows = Colours(statistics)(normalize(pictures, statistics)).cls
    for row, picture in zip(rows, pictures, strict=True):
        levels = picture.flatten(1).T.numpy() / 255
        counts, _ = np.histogramdd(levels, bins=BINS, range=[(0, 1)] * 3)
        assert np.allclose(row, np.sqrt(counts.ravel() / counts.sum()), atol=1e-6)


def test_of_other_channels_each_has_a_histogram_whose_ends_take_the_rest():
    levels = torch.randn(4, 5, 20, 30) * 4
    colours = Colours(((0.0,) * 5, (1.0,) * 5), tuple("abcde"))
    rows = colours(levels).cls
    for row, image in zip(rows, levels, strict=True):
        shares = [
            np.histogram(channel.clamp(-3, 3), bins=LEVEL_BINS, range=(-3, 3))[0]
            for channel in image
        ]
        assert np.allclose(row**2, np.concatenate(shares) / image.numel(), atol=2e-3)


def test_what_a_plain_image_lacks_is_refused(pictures):
    pixels = Pixels(STATISTICS)
    images = normalize(pictures, STATISTICS)
    with pytest.raises(ValueError, match="2 blocks"):
        pixels.last_layers(images, 2)
    with pytest.raises(ValueError, match="mask"):
        pixels(images, torch.zeros(5, 1, dtype=torch.bool))
