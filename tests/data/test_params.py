from dataclasses import replace

import numpy as np
import pytest

from ibot.config.schema import AugmentConfig
from ibot.data.params import view_params

CONFIG = AugmentConfig(num_local=4)


def draw(count, height, width, config=CONFIG, seed=0):
    return view_params(config, seed, 0, np.arange(count), np.tile([[height, width]], (count, 1)))


@pytest.mark.parametrize("size", [(375, 500), (32, 32), (1, 1), (2, 4000), (100, 1000), (7, 5)])
def test_boxes_lie_inside_the_image(size):
    top, left, height, width = np.moveaxis(draw(400, *size).box, -1, 0)
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()


@pytest.mark.parametrize(("size", "share"), [((200, 640), 0.37), ((100, 1000), 1.0)])
def test_long_images_fall_back_to_the_central_box_as_often_as_published(size, share):
    box = draw(3000, *size).box[:, 0]
    height, width = size
    central = [0, (width - round(height * 4 / 3)) // 2, height, round(height * 4 / 3)]
    assert (box == central).all(-1).mean() == pytest.approx(share, abs=0.035)


def test_areas_and_aspects_of_boxes_follow_their_ranges():
    config = replace(CONFIG, global_scale=(0.25, 0.5), local_scale=(0.05, 0.2))
    box = draw(3000, 1000, 1000, config).box.astype(float)
    area = box[..., 2] * box[..., 3] / 1e6
    for views, (low, high) in ((slice(0, 2), (0.25, 0.5)), (slice(2, 6), (0.05, 0.2))):
        assert area[:, views].min() > low * 0.99 and area[:, views].max() < high * 1.01
        assert area[:, views].mean() == pytest.approx((low + high) / 2, abs=0.01)
    log_aspect = np.log(box[..., 3] / box[..., 2])
    assert log_aspect.mean() == pytest.approx(0, abs=0.01) and np.abs(log_aspect).max() < np.log(4 / 3) + 0.01


def test_operations_occur_as_often_as_the_recipes_say():
    params = draw(5000, 64, 64)
    assert params.flip.mean() == pytest.approx(0.5, abs=0.02)
    assert (params.jitter_order[..., 0] != 255).mean() == pytest.approx(0.8, abs=0.02)
    assert params.gray.mean() == pytest.approx(0.2, abs=0.02)
    blurred = (params.blur_sigma > 0).mean(0)
    assert (
        blurred[0] == 1.0 and blurred[1] == pytest.approx(0.1, abs=0.02) and blurred[2:] == pytest.approx(0.5, abs=0.03)
    )
    solarized = params.solarize.mean(0)
    assert solarized[0] == 0 and solarized[1] == pytest.approx(0.2, abs=0.025) and (solarized[2:] == 0).all()
    sigma = params.blur_sigma[:, 0]
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0 and sigma.mean() == pytest.approx(1.05, abs=0.03)


def test_jitter_factors_and_orders_are_uniform():
    params = draw(4000, 64, 64)
    low, high = params.jitter.min((0, 1)), params.jitter.max((0, 1))
    np.testing.assert_allclose(low, [0.6, 0.6, 0.8, -0.1], atol=0.01)
    np.testing.assert_allclose(high, [1.4, 1.4, 1.2, 0.1], atol=0.01)
    orders = params.jitter_order[params.jitter_order[..., 0] != 255]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24 and counts.min() > 0.8 * counts.mean()


def test_parameters_do_not_depend_on_the_rest_of_the_batch():
    sizes = np.random.default_rng(0).integers(20, 500, (30, 2))
    whole = view_params(CONFIG, 1, 2, np.arange(30), sizes)
    some = view_params(CONFIG, 1, 2, np.array([17, 3]), sizes[[17, 3]])
    for name in ("box", "flip", "jitter", "jitter_order", "gray", "blur_sigma", "solarize"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[17, 3]])
