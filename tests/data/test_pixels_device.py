"""Views made on a device (here the CPU) beside those of Pillow, and beside each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import AugmentConfig
from ibot.data import filters, pixels_device
from ibot.data.params import view_params
from ibot.data.pixels_batch import render_batch
from ibot.data.pixels_device import render

CPU = torch.device("cpu")
OFF = AugmentConfig(
    num_local=3,
    global_size=(48, 48),
    local_size=(24, 24),
    flip=0.0,
    jitter=0.0,
    gray=0.0,
    blur=(0.0, 0.0, 0.0),
    solarize=(0.0, 0.0, 0.0),
)
"""Crops and nothing else."""


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Pictures of many sizes, some smaller than a view, with smooth and noisy parts."""
    rng = np.random.default_rng(3)
    made = []
    for height, width in ((90, 120), (20, 31), (133, 77), (48, 48), (200, 60), (17, 17)):
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noise = rng.integers(-20, 21, smooth.shape) * (np.arange(width) > width // 2)[:, None]
        made.append((smooth + noise).clip(0, 255).astype(np.uint8))
    return made


def flat(images) -> torch.Tensor:
    """All pixels, [P, C]."""
    return torch.from_numpy(np.concatenate([image.reshape(-1, image.shape[2]) for image in images]))


def drawn(images, config, seed=0, index=None):
    sizes = np.array([image.shape[:2] for image in images])
    index = np.arange(len(images)) if index is None else np.asarray(index)
    return sizes, view_params(config, seed, 1, index, sizes)


def made(images, config, **how) -> list[np.ndarray]:
    """V arrays [B, h, w, C]."""
    sizes, params = drawn(images, config, **how)
    views = render(flat(images), sizes, params, config, CPU)
    return [v.permute(0, 2, 3, 1).numpy() for many in views if many is not None for v in many]


def differences(images, config, seeds=range(8)) -> np.ndarray:
    """|device - Pillow| of all levels of all views."""
    found = []
    for seed in seeds:
        want = render_batch(images, drawn(images, config, seed)[1], config)
        for a, b in zip(made(images, config, seed=seed), want, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
            found.append(np.abs(a.astype(int) - b).ravel())
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("changes", "mean", "largest"),
    [
        ({}, 0.3, 12),
        ({"flip": 0.5, "vertical_flip": 0.5, "turn": 0.8}, 0.3, 12),
        ({"jitter": 1.0, "jitter_strength": (0.4, 0.0, 0.0, 0.0)}, 1.0, 16),
        ({"jitter": 1.0, "jitter_strength": (0.0, 0.4, 0.0, 0.0)}, 1.0, 16),
        ({"jitter": 1.0, "jitter_strength": (0.0, 0.0, 0.4, 0.0)}, 1.0, 16),
        ({"jitter": 1.0, "jitter_strength": (0.0, 0.0, 0.0, 0.5)}, 1.0, 64),
        ({"jitter": 0.8, "jitter_strength": (0.4, 0.4, 0.2, 0.1)}, 1.0, 64),
        ({"gray": 0.5}, 0.3, 12),
        ({"blur": (1.0, 0.5, 0.5)}, 1.0, 40),
        ({"solarize": (0.5, 0.5, 0.5)}, 0.5, 255),
    ],
)
def test_each_operation_is_pillows_but_for_some_levels(images, changes, mean, largest):
    found = differences(images, replace(OFF, **changes))
    assert found.mean() < mean and found.max() <= largest, (found.mean(), found.max())


def test_the_published_views_are_pillows_but_for_some_levels(images):
    published = AugmentConfig(num_local=3, global_size=(48, 48), local_size=(24, 24))
    assert differences(images, published).mean() < 1.0


def test_levels_that_no_operation_rounds_are_pillows_exactly(images):
    # Whole images of the size of the views: nothing is resized.
    square = [image[:17, :17] for image in images]
    whole = {"global_scale": (1.0, 1.0), "local_scale": (1.0, 1.0), "aspect": (1.0, 1.0)}
    size = {"global_size": (17, 17), "local_size": (17, 17)}
    config = replace(
        OFF, **whole, **size, flip=0.5, vertical_flip=0.5, turn=0.7, gray=0.4, solarize=(0.5,) * 3
    )
    assert differences(square, config).max() == 0


def test_views_do_not_depend_on_what_stands_beside_them(images, monkeypatch):
    config = AugmentConfig(
        num_local=3, global_size=(48, 48), local_size=(24, 24), vertical_flip=0.5, turn=0.5
    )
    together = made(images, config)
    monkeypatch.setitem(pixels_device.CROPPED, "cpu", 1)  # one at a time
    alone = [made([image], config, index=[i]) for i, image in enumerate(images)]
    for view, many in enumerate(together):
        np.testing.assert_array_equal(many, np.concatenate([own[view] for own in alone]))


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 1e-3),
        ({"flip": 0.5, "vertical_flip": 0.5, "turn": 0.8}, 1e-3),
        ({"jitter": 1.0}, 2e-3),
        ({"jitter": 0.5, "blur": (1.0, 0.5, 0.5), "gray": 1.0, "solarize": (1.0, 1.0, 1.0)}, 0.3),
    ],
)
def test_levels_of_other_channels_are_those_of_the_reference_and_not_clipped(images, changes, most):
    levels = [
        (image[..., [0, 1, 2, 0]] / np.float32(50) - 2).astype(np.float32) for image in images
    ]
    config, std, largest = replace(OFF, **changes), (0.5, 1.0, 2.0, 0.25), 0.0
    for seed in range(4):
        sizes, params = drawn(levels, config, seed)
        views = render(flat(levels), sizes, params, config, CPU, std)
        want = render_batch(levels, params, config, std)
        for got, exact in zip((*views[0], *views[1]), want, strict=True):
            assert got.dtype == torch.float32 and exact.shape[-1] == 4
            apart = np.abs(got.permute(0, 2, 3, 1).numpy() - exact)
            assert apart.max() < most and apart.mean() < most / 10, (apart.max(), apart.mean())
            largest = max(largest, float(got.max()))
    assert largest > 3.11, "more than any byte stands for"


def test_a_plain_image_stays_plain(images):
    plain = [np.full(image.shape, (13, 130, 250), np.uint8) for image in images]
    for view in made(plain, replace(OFF, blur=(1.0, 1.0, 1.0))):
        assert (view == (13, 130, 250)).all()


def test_weights_and_their_sums_are_exact_in_half_precision_also_where_views_are_enlarged():
    g = torch.Generator().manual_seed(0)
    for out in (7, 32, 48):
        length = torch.rand(400, generator=g) * 3 * out + 1
        begin = torch.rand(400, generator=g)
        pixels = (begin + length).ceil().long()
        rows = filters.Rows(begin, length, pixels, int(pixels.max()))
        weights = filters.resize_weights(rows, out, torch.rand(400, generator=g) < 0.5)
        assert weights.max() > 1.05, "at the ends of enlarged rows"
        assert torch.equal(weights.half().float(), weights)
        assert (weights.sum(dim=-1) == 1).all()
        levels = torch.randint(0, 256, (400, rows.most, 1), generator=g).float()
        sums = filters.product(weights, levels)
        assert torch.equal(sums.double(), torch.bmm(weights.double(), levels.double()))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7, 2.0])
def test_the_blur_of_a_point_is_pillows(sigma):
    point = np.zeros((41, 41), np.uint8)
    point[20, 20] = 255
    steps = torch.from_numpy(filters.blur_steps(np.array([sigma, 2.0], np.float32)))
    matrix = filters.blur_weights(steps, 41)[0].double()
    assert torch.equal(matrix.sum(dim=1), torch.ones(41).double())
    spread = ((matrix[20] * (torch.arange(41) - 20) ** 2).sum()).item()
    assert spread == pytest.approx(sigma**2, abs=0.03)


def test_nothing_is_made_of_no_local_views(images):
    config = replace(OFF, num_local=0)
    sizes, params = drawn(images, config)
    views, none = render(flat(images), sizes, params, config, CPU)
    assert none is None and views.shape == (2, len(images), 3, 48, 48)
