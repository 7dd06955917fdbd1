"""Layouts of pictures with an up and without, made by rules."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from ibot.data.upright import NO_UP, layout, lying, reduced, surplus, upside_down


def textures(count, seed=0):
    """Smooth noise: the same law upside down and on its side."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(48)
    for _ in range(count):
        fall = np.exp(-rng.uniform(20, 120) * (frequency[:, None] ** 2 + frequency**2))
        drawn = np.fft.fft2(rng.normal(size=(48, 48, 3)), axes=(0, 1)) * fall[..., None]
        smooth = np.fft.ifft2(drawn, axes=(0, 1)).real
        yield np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def layouts(images):
    return np.stack([layout(image) for image in images])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_textures_have_no_up(seed):
    found = layouts(textures(120, seed))
    assert upside_down(found) < NO_UP and lying(found) < NO_UP


def test_a_sky_that_is_a_little_brighter_is_an_up():
    light = np.linspace(18, -18, 48)[:, None, None]
    images = [np.clip(image + light, 0, 255).astype(np.uint8) for image in textures(120)]
    assert upside_down(layouts(images)) > 2 * NO_UP
    turned = [np.ascontiguousarray(image[::-1]) for image in images]
    half = layouts(images[::2] + turned[1::2])
    assert upside_down(half) < NO_UP and lying(half) < 2 * NO_UP


def test_layers_are_the_same_upside_down_but_not_on_their_side():
    band = 25 * np.cos(np.linspace(-np.pi, np.pi, 48))[:, None, None]
    found = layouts(np.clip(image + band, 0, 255).astype(np.uint8) for image in textures(120))
    assert upside_down(found) < NO_UP < lying(found)


def test_a_common_grain_is_no_up():
    """Edges along one direction only, the same everywhere."""
    rows = np.arange(48)[:, None, None] % 6 * 8
    found = layouts(np.clip(image + rows, 0, 255).astype(np.uint8) for image in textures(120))
    assert upside_down(found) < NO_UP


def test_layouts_turn_with_their_pictures():
    image = next(textures(1))
    plain = layout(image)
    np.testing.assert_allclose(layout(image[::-1]), plain[:, ::-1], atol=1e-5)
    turned = layout(np.rot90(image))  # whose bytes are rounded elsewhere
    np.testing.assert_allclose(turned[:3], np.rot90(plain[:3], axes=(1, 2)), atol=0.05)
    np.testing.assert_allclose(turned[3], np.rot90(plain[4]), atol=0.05)


def test_levels_of_other_types_have_layouts_whatever_their_range():
    image = next(textures(1))
    levels = np.concatenate([image, image[..., :2]], axis=-1).astype(np.float32) / 2000 + 3
    assert reduced(levels, 8).shape == (8, 8, 5)
    assert 0 <= reduced(levels, 8).min() < reduced(levels, 8).max() <= 255
    np.testing.assert_allclose(layout(7 * levels - 3), layout(levels), atol=1e-2)
    assert np.isfinite(layout(np.full((20, 20, 4), 0.5, np.float32))).all()


def test_a_surplus_is_1_by_chance_and_grows_with_the_number():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(400, 5, 8, 8)).astype(np.float32)
    assert surplus(drawn) == pytest.approx(1, abs=0.3)
    assert surplus(drawn + 0.5) > 3 * surplus(drawn[:100] + 0.5)
    assert surplus(np.zeros((4, 2))) == 1.0


def tiles(image, side):
    """Squares of a picture beside each other."""
    rows, columns = (length // side * side for length in image.shape[:2])
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            yield np.ascontiguousarray(image[top : top + side, left : left + side])


def test_real_cells_tissue_and_fields_have_no_up_and_photographs_have_one(shared_data):
    folder = shared_data / "scientific"
    cells = sorted((folder / "cells_6_files").glob("*.jp2"))
    channels = np.stack([np.asarray(Image.open(file)) for file in cells], axis=-1)
    with Image.open(folder / "slide_tiled_4608_rgb.tif") as picture:
        slide = np.asarray(picture.convert("RGB"))
    scenes = np.load(folder / "s2_stack_5x101x100x13_uint16.npy")[..., [3, 2, 1]]
    sets = {
        "cells": list(tiles(channels.astype(np.float32) / 255, 42)),
        "slide": list(tiles(slide, 384)),
        "fields": [tile for scene in scenes for tile in tiles(scene.astype(np.float32), 20)],
    }
    for name, images in sets.items():
        found = layouts(images)
        assert len(found) >= 100 and upside_down(found) < NO_UP and lying(found) < NO_UP, name
    with tarfile.open(shared_data / "natural_photos" / "natural_photos.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith((".jpg", ".png"))]
        photographs = [
            np.asarray(Image.open(archive.extractfile(name)).convert("RGB").reduce(4))
            for name in names
        ]
    found = layouts(photographs)
    assert len(found) > 100 and upside_down(found) > 2 * NO_UP and lying(found) > NO_UP
