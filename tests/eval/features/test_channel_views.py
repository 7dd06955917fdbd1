"""What evaluations show of images of other channels than colours."""

import numpy as np
import pytest
from PIL import Image
from tests.data.in_memory import channel_images

from ibot.eval.features.views import View, in_batches, view_batches

SIZE = (24, 40)


def smooth(height, width):
    small = np.random.default_rng(0).integers(60, 200, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad", "within"])
def test_levels_are_seen_as_bytes_are(fit):
    image, view = smooth(61, 83), View(SIZE, fit)
    wanted = view.render(image).astype(np.float64)
    found = view.render(image.astype(np.float32) / 255)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    inside = wanted.any(axis=-1) if fit == "pad" else np.ones(wanted.shape[:2], bool)
    assert np.abs(255 * found - wanted)[inside].max() < 1.3
    enlarged = view.enlarged(image.astype(np.float32) / 255, 2)
    assert enlarged.shape == view.enlarged(image, 2).shape


def test_what_is_beside_a_padded_image_has_the_mean_of_each_channel():
    image = np.random.default_rng(1).normal(0, 9, (20, 20, 5)).astype(np.float32)
    padded = View((20, 30), "pad").render(image)
    np.testing.assert_array_equal(padded[:, 5:25], image)
    np.testing.assert_allclose(
        padded[:, :5], np.broadcast_to(image.mean((0, 1)), (20, 5, 5)), rtol=1e-5
    )


def test_batches_hold_levels_of_all_channels():
    images = channel_images(5, side=24)
    batches = list(view_batches(images, View((24, 24)), in_batches(np.arange(5), 3)))
    assert [tuple(one.views.shape) for one in batches] == [(3, 13, 24, 24), (2, 13, 24, 24)]
    np.testing.assert_array_equal(batches[1].views[0].permute(1, 2, 0).numpy(), images.read(3))
