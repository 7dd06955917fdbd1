"""Views of float levels: beside Pillow's on bytes, and by the formulas of the colour operations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import AugmentConfig
from ibot.data import pixels, pixels_channels
from ibot.data.params import NO_JITTER, view_params
from ibot.data.pixels_batch import render_batch

PLAIN = AugmentConfig(
    num_global=2,
    num_local=1,
    global_size=(40, 32),
    local_size=(16, 24),
    jitter=0.0,
    gray=0.0,
    blur=(0.0, 0.0, 0.0),
    solarize=(0.0, 0.0, 0.0),
    vertical_flip=0.5,
    turn=0.0,
)


def params_of(config, images, seed=0):
    sizes = np.array([image.shape[:2] for image in images], np.int64)
    return view_params(config, seed, 0, np.arange(len(images)), sizes)


def levels(count, channels, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(3, 40, (*rng.integers(30, 70, 2), channels)).astype(np.float32)
        for _ in range(count)
    ]


@pytest.mark.parametrize("turn", [0.0, 1.0])
def test_crops_flips_and_turns_are_those_of_bytes(turn):
    """On smooth images, where Pillow's bytes are rounded but never clipped."""
    rng = np.random.default_rng(3)
    config = replace(PLAIN, turn=turn, global_size=(32, 32), local_size=(16, 16))
    small = [rng.integers(40, 215, (9, 11, 3), np.uint8) for _ in range(6)]
    bytes_ = [np.asarray(Image.fromarray(one).resize((61, 47))) for one in small]
    params = params_of(config, bytes_, 5)
    views = render_batch(bytes_, params, config)
    as_levels = [image.astype(np.float32) / 255 for image in bytes_]
    floats = render_batch(as_levels, params, config, (1.0, 1.0, 1.0))
    for wanted, found in zip(views, floats, strict=True):
        assert found.dtype == np.float32
        assert (
            np.abs(255 * found - wanted.astype(np.float64)).max() < 1.3
        )  # Pillow rounds bytes after each axis


def test_a_batch_is_its_images_one_by_one():
    images, config = levels(3, 13), AugmentConfig(global_size=(24, 24), local_size=(12, 12))
    params, std = params_of(config, images), tuple(np.linspace(1, 30, 13))
    together = render_batch(images, params, config, std)
    for row, image in enumerate(images):
        alone = pixels.render(image, params, row, config, std)
        for view, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(view[row], one)
    assert [view.shape[1:] for view in together[:2]] == [(24, 24, 13)] * 2


def test_levels_are_neither_clipped_nor_rounded():
    (image,) = levels(1, 2)
    image[:] = np.array([-7e4, 1e-7], np.float32)
    params = params_of(PLAIN, [image])
    view = pixels.render(image, params, 0, PLAIN, (1.0, 1.0))[0]
    np.testing.assert_allclose(view, np.broadcast_to(image[0, 0], view.shape), rtol=1e-6)


def test_brightness_shifts_by_deviations_and_contrast_turns_around_the_mean_of_each_channel():
    (image,), std = levels(1, 5), (0.1, 1.0, 10.0, 0.5, 2.0)
    params = params_of(PLAIN, [image])
    plain = pixels.render(image, params, 0, PLAIN, std)[0]
    for order, name in (([0, 1, 2, 3], "first"), ([3, 1, 2, 0], "last")):
        jitter = np.full((1, 3, 4), [1.3, 0.6, 0.2, 0.4], np.float32)
        changed = replace(
            params,
            jitter=jitter,
            jitter_order=np.broadcast_to(np.array(order, np.uint8), (1, 3, 4)).copy(),
            gray=np.ones((1, 3), bool),
            solarize=np.ones((1, 3), bool),
        )
        shift = np.float32(0.3) * np.array(std)
        mean = plain.mean(axis=(0, 1), dtype=np.float64)
        wanted = mean + 0.6 * (plain - mean) + shift  # a shift moves the mean too
        found = pixels.render(image, changed, 0, PLAIN, std)[0]
        np.testing.assert_allclose(found, wanted, atol=2e-3, err_msg=name)
    assert params.jitter_order[0, 0, 0] == NO_JITTER


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.4, 2.0, 4.7])
def test_blur_is_pillows_of_bytes(sigma):
    image = np.random.default_rng(1).integers(0, 256, (23, 31, 3), np.uint8)
    wanted = np.asarray(pixels.blur(Image.fromarray(image), sigma)).astype(np.float64)
    found = pixels_channels.blur(image.astype(np.float32), sigma)
    difference = found - wanted
    assert np.abs(difference).max() <= 3  # bytes are rounded after each of six boxes
    assert difference.std() < 1 and abs(difference.mean()) < 0.6


def test_other_numbers_of_deviations_are_refused():
    (image,) = levels(1, 4)
    with pytest.raises(ValueError, match="3 deviations for an image of 4 channels"):
        pixels.render(image, params_of(PLAIN, [image]), 0, PLAIN)


def test_normalize_divides_bytes_and_leaves_levels():
    bytes_ = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    same = pixels.normalize(bytes_), pixels.normalize(bytes_.float() / 255)
    torch.testing.assert_close(*same, rtol=0, atol=0)
    statistics = tuple(range(13)), tuple(range(1, 14))
    views = torch.randn(2, 13, 4, 5)
    normal = pixels.normalize(views, statistics)
    torch.testing.assert_close(normal[:, 12], (views[:, 12] - 12) / 13)
    other = (0.5,) * 13, (2.0,) * 13
    torch.testing.assert_close(
        pixels.renormalize(normal, statistics, other), pixels.normalize(views, other)
    )
    with pytest.raises(ValueError, match="3 and 3 channels for views of 13"):
        pixels.normalize(views)
