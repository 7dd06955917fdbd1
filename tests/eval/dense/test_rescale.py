"""Sizes and pixels of the dense protocols."""

import numpy as np
import pytest
import torch

from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD
from ibot.errors import MissingExtra
from ibot.eval.dense.rescale import (
    opencv,
    padded,
    rescaled_size,
    resize_bilinear,
    resize_nearest,
    to_input,
)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((427, 640), (1333, 800), (800, 1199)),
        ((480, 640), (1333, 800), (800, 1067)),
        ((300, 1000), (1333, 800), (400, 1333)),
        ((512, 683), (2048, 512), (512, 683)),
        ((1, 2000), (1333, 800), (1, 1333)),
    ],
)
def test_sizes_follow_the_rule_of_a_long_and_a_short_side(size, scale, expected):
    assert rescaled_size(*size, long=scale[0], short=scale[1]) == expected


def test_shrinking_takes_the_pixels_at_the_places_without_smoothing():
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2] = 200
    assert set(resize_bilinear(image, (2, 2)).flat) == {100}, "two rows of eight are read"
    assert set(resize_bilinear(image, (4, 8)).flat) == {100}
    assert resize_bilinear(image, (8, 8)) is image


def test_labels_are_never_mixed():
    labels = np.random.default_rng(0).choice([0, 7, 255], (9, 13)).astype(np.uint8)
    assert set(resize_nearest(labels, (31, 5)).flat) <= {0, 7, 255}
    assert np.array_equal(resize_nearest(labels, (18, 26))[::2, ::2], labels)


def test_levels_are_normalised_by_the_published_values():
    image = np.full((2, 3, 3), 255, np.uint8)
    tensor = to_input(image, (IMAGENET_MEAN, IMAGENET_STD))
    expected = (255 - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
        [58.395, 57.12, 57.375]
    )
    torch.testing.assert_close(tensor, expected[:, None, None].expand(3, 2, 3))


def test_a_batch_is_padded_right_and_below_to_its_largest():
    batch = padded([torch.ones(3, 5, 40), torch.ones(3, 33, 7)], 32)
    assert batch.shape == (2, 3, 64, 64)
    assert batch[0].sum() == 3 * 5 * 40 and batch[0, :, :5, :40].all()
    labels = padded([torch.zeros(5, 4, dtype=torch.long)], 4, 255)
    assert labels.shape == (1, 8, 4) and (labels[0, 5:] == 255).all()


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtra, match="opencv-python-headless") as error:
        opencv()
    assert 'pip install "opencv-python-headless>=' in error.value.fix
