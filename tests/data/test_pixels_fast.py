"""The fast pixels beside Pillow's: by the kernel where it was built, and without it."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ibot.config.schema import AugmentConfig
from ibot.data import pixels, pixels_fast, pixels_plain
from ibot.data.params import view_params
from ibot.kernels import views as kernel

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import fidelity

CONFIG = AugmentConfig(
    global_size=(40, 40),
    local_size=(24, 24),
    num_local=3,
    blur=(0.5, 0.5, 0.5),
    solarize=(0.2, 0.2, 0.2),
    turn=0.4,
    vertical_flip=0.4,
)


@pytest.fixture(params=["kernel", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(kernel, "is_built", lambda: False)
    elif not kernel.is_built():
        pytest.skip("the kernel was not built: python setup.py build_ext --inplace")
    return request.param


def picture(rng, height, width):
    """Slopes, edges and noise."""
    y, x = np.mgrid[:height, :width] * rng.uniform(0.5, 3, 2)[:, None, None]
    smooth = np.stack([x, y, 128 + 100 * np.sin(x / 9 + y / 7)], axis=-1) % 256
    return (smooth * 0.8 + rng.integers(0, 52, smooth.shape)).astype(np.uint8)


def drawn(images, config, seed=0):
    sizes = np.array([image.shape[:2] for image in images])
    return view_params(config, seed, 0, np.arange(len(images)), sizes)


def beside(images, params, config, std=pixels.STD):
    """Pairs of views [B, C, h, w]: fast and exact."""
    fast = pixels_fast.render_batch(images, params, config, std)
    rows = [pixels.render(image, params, row, config, std) for row, image in enumerate(images)]
    exact = [np.stack(view).transpose(0, 3, 1, 2) for view in zip(*rows, strict=True)]
    made = [view.numpy() for part in fast if part is not None for view in part]
    return list(zip(made, exact, strict=True))


@pytest.mark.parametrize("operation", fidelity.OPERATIONS)
def test_no_operation_leaves_pillows_pixels_by_more_than_is_allowed(operation):
    rng = np.random.default_rng(5)
    images = [picture(rng, *rng.integers(310, 420, 2)) for _ in range(3)]
    found = {}
    for way, differences in fidelity.compared(images, operation, draws=25):
        found.setdefault(way, []).append(differences)
    means = {way: np.mean([part.mean() for part in parts]) for way, parts in found.items()}
    for way in ("plain", "device"):
        assert means[way] < (0.3 if operation.startswith("resize") else 1.0)
    if "kernel" in means:
        exact = not operation.startswith(("brightness", "contrast", "saturation", "hue", "whole"))
        assert means["kernel"] == 0 if exact else means["kernel"] < 0.05
    if operation == "flips":
        assert means["plain"] == means["device"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_views_of_a_batch_are_pillows_within_rounding(way, seed):
    rng = np.random.default_rng(seed)
    images = [picture(rng, *rng.integers(30, 200, 2)) for _ in range(6)]
    for fast, exact in beside(images, drawn(images, CONFIG, seed), CONFIG):
        assert fast.dtype == np.uint8 and fast.shape == exact.shape
        assert np.abs(fast.astype(int) - exact).mean() < (0.1 if way == "kernel" else 0.5)


def test_layout_is_that_of_a_batch(way):
    images = [picture(np.random.default_rng(i), 50, 60) for i in range(2)]
    global_views, local_views = pixels_fast.render_batch(images, drawn(images, CONFIG), CONFIG)
    assert global_views.shape == (2, 2, 3, 40, 40) and local_views.shape == (3, 2, 3, 24, 24)
    assert global_views.is_contiguous() and local_views.is_contiguous()
    alone = replace(CONFIG, num_local=0)
    assert pixels_fast.render_batch(images, drawn(images, alone), alone)[1] is None


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (90, 2), (7, 5), (16, 48), (300, 20)])
def test_small_and_narrow_images_have_views(way, size):
    images = [picture(np.random.default_rng(0), *size)]
    config = replace(CONFIG, global_size=(33, 50), local_size=(1, 7), turn=0.0)
    for fast, exact in beside(images, drawn(images, config), config):
        assert np.abs(fast.astype(int) - exact).mean() < 1


@pytest.mark.parametrize("odd", ["reversed", "transposed", "read-only", "part"])
def test_pixels_may_lie_anyhow_in_memory(way, odd):
    image = picture(np.random.default_rng(0), 60, 60)
    given = {
        "reversed": image[::-1, ::-1],
        "transposed": image.swapaxes(0, 1),
        "read-only": np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        "part": np.pad(image, ((3, 4), (5, 6), (0, 0)))[3:-4, 5:-6],
    }[odd]
    params = drawn([given], CONFIG)
    want = pixels_fast.render_batch([given.copy()], params, CONFIG)
    for got, wanted in zip(pixels_fast.render_batch([given], params, CONFIG), want, strict=True):
        assert torch.equal(got, wanted)


def test_a_blur_of_next_to_nothing_and_one_wider_than_the_view(way):
    image = picture(np.random.default_rng(0), 40, 40)
    for sigma in (0.1, 30.0):
        params = fidelity.unchanged([(40, 40)])
        params.blur_sigma[:] = sigma
        config = replace(CONFIG, num_global=1, num_local=0)
        ((fast, exact),) = beside([image], params, config)
        np.testing.assert_array_equal(fast, exact)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_float_levels_go_the_ways_of_their_reference(channels):
    rng = np.random.default_rng(channels)
    images = [rng.normal(3, 2, (*rng.integers(30, 90, 2), channels)).astype(np.float32)]
    std = [0.5 + c for c in range(channels)]
    config = replace(CONFIG, blur=(0.0, 0.0, 0.0))
    for fast, exact in beside(images, drawn(images, config), config, std):
        assert fast.dtype == np.float32
        np.testing.assert_allclose(fast, exact, atol=1e-4)
    blurred = replace(CONFIG, blur=(1.0, 1.0, 1.0))
    for fast, exact in beside(images, drawn(images, blurred), blurred, std):
        inside = np.s_[..., 8:-8, 8:-8]  # At borders the reference extends them box by box.
        np.testing.assert_allclose(fast[inside], exact[inside], atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"box": p.box + np.array([0, 1, 0, 0], np.int32)},
        lambda p: {"box": p.box - np.array([1, 0, 0, 0], np.int32)},
        lambda p: {"box": p.box * np.array([1, 1, 0, 1], np.int32)},
        lambda p: {"box": p.box * np.array([1, 1, 2**24, 1], np.int32)},
        lambda p: {"box": p.box[:, :1]},
        lambda p: {"jitter_order": np.full_like(p.jitter_order, 7)},
        lambda p: {"jitter_order": np.zeros_like(p.jitter_order)},
        lambda p: {"jitter": p.jitter * np.float32("nan")},
        lambda p: {"blur_sigma": p.blur_sigma - 1},
        lambda p: {"blur_sigma": p.blur_sigma + np.float32("inf")},
        lambda p: {"turn": p.turn + np.uint8(4)},
        lambda p: {"gray": p.gray[:, :1]},
    ],
)
def test_parameters_that_lead_nowhere_are_refused(way, change):
    image = picture(np.random.default_rng(0), 40, 40)
    config = replace(CONFIG, num_global=2, num_local=0)
    params = fidelity.unchanged([(40, 40)])
    two = {name: np.repeat(getattr(params, name), 2, 1) for name in type(params).__slots__}
    params = replace(params, **two)
    pixels_fast.render_batch([image], params, config)
    with pytest.raises(ValueError):
        pixels_fast.render_batch([image], replace(params, **change(params)), config)


def test_a_box_too_large_to_count_in_is_refused(way):
    tall = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (2**27 + 8, 1, 3))
    config = replace(CONFIG, num_global=1, num_local=0, global_size=(1, 1))
    with pytest.raises(ValueError, match="more than 134217728 pixels"):
        pixels_fast.render_batch([tall], fidelity.unchanged([(2**27 + 8, 1)]), config)


def test_a_quarter_turn_of_a_view_that_is_not_square_is_refused(way):
    params = fidelity.unchanged([(40, 40)])
    params.turn[:] = 1
    config = replace(CONFIG, num_global=1, num_local=0, global_size=(40, 30))
    with pytest.raises(ValueError, match="not square"):
        pixels_fast.render_batch([picture(np.random.default_rng(0), 40, 40)], params, config)


def test_every_hue_is_moved_as_pillow_moves_it():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    image[:8] = image[:8, :, :1]  # without a hue
    from PIL import Image

    for shift in rng.uniform(-0.5, 0.5, 8):
        moved = np.asarray(pixels_plain.hue(Image.fromarray(image), float(shift)))
        want = np.asarray(pixels.hue(Image.fromarray(image), float(shift)))
        differences = np.abs(moved.astype(int) - want)
        assert differences.mean() < 0.02 and (differences[:8] == 0).all()
