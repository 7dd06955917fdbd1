import math
from dataclasses import fields, replace

import numpy as np
import pytest

from ibot.config.schema import AugmentConfig
from ibot.data.params import view_params, view_size
from ibot.rng import Purpose, uniform

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
    assert (
        log_aspect.mean() == pytest.approx(0, abs=0.01)
        and np.abs(log_aspect).max() < np.log(4 / 3) + 0.01
    )


def test_operations_occur_as_often_as_the_recipes_say():
    params = draw(5000, 64, 64)
    assert params.flip.mean() == pytest.approx(0.5, abs=0.02)
    assert (params.jitter_order[..., 0] != 255).mean() == pytest.approx(0.8, abs=0.02)
    assert params.gray.mean() == pytest.approx(0.2, abs=0.02)
    blurred = (params.blur_sigma > 0).mean(0)
    assert (
        blurred[0] == 1.0
        and blurred[1] == pytest.approx(0.1, abs=0.02)
        and blurred[2:] == pytest.approx(0.5, abs=0.03)
    )
    solarized = params.solarize.mean(0)
    assert (
        solarized[0] == 0
        and solarized[1] == pytest.approx(0.2, abs=0.025)
        and (solarized[2:] == 0).all()
    )
    sigma = params.blur_sigma[:, 0]
    assert (
        sigma.min() >= 0.1 and sigma.max() <= 2.0 and sigma.mean() == pytest.approx(1.05, abs=0.03)
    )


def test_flips_top_to_bottom_and_turns_occur_as_often_as_asked_and_change_nothing_else():
    plain = draw(6000, 64, 64)
    assert not plain.vertical_flip.any() and not plain.turn.any()
    params = draw(6000, 64, 64, replace(CONFIG, vertical_flip=0.3, turn=0.6))
    assert params.vertical_flip.mean() == pytest.approx(0.3, abs=0.02)
    shares = np.bincount(params.turn.ravel(), minlength=4) / params.turn.size
    assert shares == pytest.approx([0.4, 0.2, 0.2, 0.2], abs=0.01)
    together = np.corrcoef(
        [part[:, 1].astype(float) for part in (params.flip, params.vertical_flip, params.turn)]
    )
    assert np.abs(np.triu(together, 1)).max() < 5 / 6000**0.5
    kept = (field.name for field in fields(plain) if field.name not in ("vertical_flip", "turn"))
    for name in kept:
        np.testing.assert_array_equal(getattr(params, name), getattr(plain, name))
    always = draw(300, 64, 64, replace(CONFIG, vertical_flip=1.0, turn=1.0))
    assert always.vertical_flip.all() and set(always.turn.ravel().tolist()) == {1, 2, 3}


def test_jitter_factors_and_orders_are_uniform():
    params = draw(4000, 64, 64)
    low, high = params.jitter.min((0, 1)), params.jitter.max((0, 1))
    np.testing.assert_allclose(low, [0.6, 0.6, 0.8, -0.1], atol=0.01)
    np.testing.assert_allclose(high, [1.4, 1.4, 1.2, 0.1], atol=0.01)
    orders = params.jitter_order[params.jitter_order[..., 0] != 255]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24 and counts.min() > 0.8 * counts.mean()


def test_views_drawn_for_another_purpose_are_others():
    sizes = np.tile([[50, 70]], (6, 1))
    found = [
        view_params(CONFIG, 0, 0, np.arange(6), sizes, purposes)
        for purposes in (
            (Purpose.BOX, Purpose.COLOR),
            (Purpose.MATCH_BOX, Purpose.COLOR),
            (Purpose.BOX, Purpose.MATCH_COLOR),
        )
    ]
    assert np.array_equal(found[0].box, draw(6, 50, 70).box)
    assert not np.array_equal(found[0].box, found[1].box)
    assert np.array_equal(found[0].box, found[2].box)
    assert np.array_equal(found[0].jitter, found[1].jitter)
    assert not np.array_equal(found[0].jitter, found[2].jitter)


def test_parameters_do_not_depend_on_the_rest_of_the_batch():
    sizes = np.random.default_rng(0).integers(20, 500, (30, 2))
    whole = view_params(CONFIG, 1, 2, np.arange(30), sizes)
    some = view_params(CONFIG, 1, 2, np.array([17, 3]), sizes[[17, 3]])
    for name in ("box", "flip", "jitter", "jitter_order", "gray", "blur_sigma", "solarize"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[17, 3]])


def plain_box(numbers, height, width, scale, aspect):
    """Section 2.1 for one view: ten tries of four numbers each, then the central box."""
    for area, ratio, down, right in np.reshape(numbers, (-1, 4)).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        low, high = (float(np.log(np.float32(end))) for end in aspect)
        ratio = math.exp(low + (high - low) * ratio)
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return [int(down * (height - h + 1)), int(right * (width - w + 1)), h, w]
    h, w = height, width
    if width < aspect[0] * height:
        h = round(width / aspect[0])
    if width > aspect[1] * height:
        w = round(height * aspect[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


def test_every_view_equals_one_computed_by_itself_from_its_own_numbers():
    config = AugmentConfig(
        num_global=3,
        num_local=2,
        global_scale=(0.3, 0.9),
        local_scale=(0.05, 0.2),
        aspect=(0.6, 1.5),
        flip=0.4,
        jitter=0.7,
        jitter_strength=(0.5, 0.3, 0.2, 0.1),
        gray=0.3,
        blur=(0.9, 0.4, 0.6),
        blur_sigma=(0.3, 1.7),
        solarize=(0.2, 0.5, 0.3),
    )
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(20, 700, (40, 2)), [[900, 31], [33, 900], [700, 101]]])
    index = rng.permutation(1000)[: len(sizes)]
    got = view_params(config, 7, 2, index, sizes)
    for row, view in np.ndindex(len(sizes), 5):
        scale = config.global_scale if view < 3 else config.local_scale
        numbers = uniform(7, 2, index[row], view, Purpose.BOX, 40).tolist()
        box = plain_box(numbers, *sizes[row].tolist(), scale, config.aspect)
        assert got.box[row, view].tolist() == box
        number = uniform(7, 2, index[row], view, Purpose.COLOR, 16).tolist()
        recipe = {0: 0, 1: 1, 2: 1}.get(view, 2)
        assert got.flip[row, view] == (number[0] < config.flip)
        strength = np.asarray(config.jitter_strength) * (2 * np.asarray(number[4:8]) - 1)
        strength[:3] += 1
        np.testing.assert_allclose(got.jitter[row, view], strength, rtol=1e-6)
        order = sorted(range(4), key=lambda operation: number[8 + operation])
        assert got.jitter_order[row, view].tolist() == (
            order if number[1] < config.jitter else [255] * 4
        )
        assert got.gray[row, view] == (number[2] < config.gray)
        sigma = 0.3 + 1.4 * number[12] if number[3] < config.blur[recipe] else 0
        assert got.blur_sigma[row, view] == pytest.approx(sigma, rel=1e-6)
        assert got.solarize[row, view] == (number[13] < config.solarize[recipe])
    central = [plain_box([], *size, (1, 1), config.aspect) for size in sizes[-3:].tolist()]
    assert all(
        (got.box[row, :3] == box).all(1).any()
        for row, box in zip((-3, -2, -1), central, strict=True)
    )


def test_decisions_and_strengths_of_a_view_are_independent():
    params = draw(6000, 64, 64, replace(CONFIG, blur=(0.5, 0.5, 0.5), solarize=(0.5, 0.5, 0.5)))
    columns = [
        params.flip,
        params.jitter_order[..., 0] != 255,
        params.gray,
        params.blur_sigma > 0,
        params.solarize,
    ]
    columns += [params.jitter[..., i] for i in range(4)] + [params.box[..., i] for i in range(3)]
    together = np.corrcoef([np.asarray(column[:, 1], float) for column in columns])
    assert np.abs(np.triu(together, 1)[:, :-3]).max() < 5 / 6000**0.5
    blurred = params.blur_sigma[:, 1] > 0
    sigma = params.blur_sigma[blurred, 1]
    for column in columns:
        value = np.asarray(column[blurred, 1], float)
        assert value.std() == 0 or abs(np.corrcoef(sigma, value)[0, 1]) < 5 / len(sigma) ** 0.5


def test_sizes_of_views_are_height_and_width_by_their_kind():
    config = AugmentConfig(num_global=2, num_local=1, global_size=(32, 48), local_size=(16, 8))
    assert [view_size(config, view) for view in range(3)] == [(32, 48), (32, 48), (16, 8)]
