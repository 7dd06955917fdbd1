import importlib
import threading

import numpy as np
import pytest

from ibot.errors import MissingExtra
from ibot.eval.robustness.corrupt import (
    ALEXNET_ERRORS,
    COMMON_CORRUPTIONS,
    CORRUPTIONS,
    SEVERITIES,
    corrupt,
    mean_corruption_error,
)


@pytest.fixture
def library():
    return pytest.importorskip("imagecorruptions", reason="pip install imagecorruptions-imaug")


def scene(height: int, width: int) -> np.ndarray:
    """Colour gradients, a disk, stripes and a checkerboard, muted: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.stack([60 + 90 * x, 50 + 80 * y, 130 - 60 * x * y], axis=-1)
    image[(x - 0.3) ** 2 + (y - 0.35) ** 2 < 0.03] = (170, 60, 50)
    image[(y > 0.6) & (x < 0.5) & (np.floor(40 * x) % 2 == 0)] = (40, 45, 60)
    image[(y > 0.5) & (x > 0.6) & ((np.floor(24 * x) + np.floor(24 * y)) % 2 == 0)] = (60, 150, 90)
    return image.astype(np.uint8)


ALWAYS_THE_SAME = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
}
"""Those that draw nothing."""


def mean_change(image: np.ndarray, name: str, severity: int, seeds: range) -> float:
    return float(
        np.mean(
            [
                np.abs(corrupt(image, name, severity, seed).astype(float) - image).mean()
                for seed in seeds
            ]
        )
    )


def test_fifteen_common_and_four_extra_in_the_order_of_the_library(library):
    assert len(COMMON_CORRUPTIONS) == 15 and len(set(CORRUPTIONS)) == 19
    assert list(COMMON_CORRUPTIONS) == library.get_corruption_names("common")
    assert list(CORRUPTIONS[15:]) == library.get_corruption_names("validation")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_keeps_shape_and_type_and_leaves_the_input(library, name, capsys):
    for size in ((96, 96), (48, 70), (32, 32)):
        image = scene(*size)
        for severity in (1, 5):
            got = corrupt(image, name, severity, seed=3)
            assert got.shape == image.shape and got.dtype == np.uint8
            assert severity == 1 or not np.array_equal(got, image)
        np.testing.assert_array_equal(image, scene(*size))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_raises_the_mean_change(library, name):
    seeds = range(1 if name in ALWAYS_THE_SAME else 4)
    changes = [mean_change(scene(224, 224), name, severity, seeds) for severity in SEVERITIES]
    if name == "saturate":
        # By its definition: 1 and 2 take colour away, 3 to 5 add it.
        assert changes[0] < changes[1] and changes[2] < changes[3] < changes[4]
    elif name == "spatter":
        # Water up to 3, mud from 4 on; which of them changes more depends on the image.
        assert changes[0] < changes[1] < changes[2] and changes[3] < changes[4]
    elif name == "frost":
        # From 3 to 4 the weight of the ice stays 0.7 and that of the image falls: less bright, so
        # nearer to the image.
        assert changes[0] < changes[1] < changes[2] and changes[0] < changes[3] < changes[4]
    else:
        assert changes == sorted(changes) and changes[0] < changes[4]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_seed_gives_the_same_pixels(library, name):
    image = scene(96, 96)
    first = corrupt(image, name, 3, seed=5)
    np.random.rand(7)
    np.testing.assert_array_equal(first, corrupt(image, name, 3, seed=5))
    drawn = name not in ALWAYS_THE_SAME
    assert np.array_equal(first, corrupt(image, name, 3, seed=6)) != drawn


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_global_random_numbers_of_the_caller_go_on_undisturbed(library, name):
    np.random.seed(11)
    want = np.random.rand(4)
    np.random.seed(11)
    corrupt(scene(64, 64), name, 2, seed=0)
    np.testing.assert_array_equal(np.random.rand(4), want)


def test_global_state_is_restored_after_an_error(library, monkeypatch):
    def fail(*_args):
        np.random.rand(3)
        raise RuntimeError("broken")

    monkeypatch.setattr(library, "corrupt", fail)
    np.random.seed(11)
    want = np.random.rand(4)
    np.random.seed(11)
    with pytest.raises(RuntimeError, match="broken"):
        corrupt(scene(64, 64), "fog", 2, seed=0)
    np.testing.assert_array_equal(np.random.rand(4), want)


def test_a_second_thread_waits_until_the_first_has_drawn(library, monkeypatch):
    image, original = scene(64, 64), library.corrupt
    want = corrupt(image, "gaussian_noise", 3, seed=1)
    others: list[threading.Thread] = []

    def interrupted(*args):
        if not others:
            others.append(threading.Thread(target=corrupt, args=(image, "gaussian_noise", 3, 2)))
            others[0].start()
            others[0].join(timeout=0.2)
            assert others[0].is_alive()
        return original(*args)

    monkeypatch.setattr(library, "corrupt", interrupted)
    np.testing.assert_array_equal(corrupt(image, "gaussian_noise", 3, seed=1), want)
    others[0].join()


def test_simple_corruptions_equal_their_formulas(library):
    image = scene(64, 80)
    share = image / 255
    np.random.seed(4)
    noise = np.random.normal(size=image.shape, scale=0.18)
    np.testing.assert_array_equal(
        corrupt(image, "gaussian_noise", 3, 4), np.uint8(np.clip(share + noise, 0, 1) * 255)
    )
    mean = share.mean(axis=(0, 1), keepdims=True)
    np.testing.assert_array_equal(
        corrupt(image, "contrast", 4, 4), np.uint8(np.clip((share - mean) * 0.1 + mean, 0, 1) * 255)
    )


def test_spatter_without_a_drop_is_the_image_itself(library):
    image = np.full((32, 32, 3), 128, np.uint8)
    copies = [corrupt(image, "spatter", 1, seed) for seed in range(300)]
    assert any(np.array_equal(copy, image) for copy in copies)
    assert all(copy.min() >= 120 for copy in copies)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"pip install .imagecorruptions-imaug"):
        corrupt(scene(64, 64), "fog", 1, seed=0)


@pytest.mark.parametrize(
    ("image", "name", "severity", "seed", "match"),
    [
        (scene(64, 64).astype(np.float32), "fog", 1, 0, "float32"),
        (scene(64, 64)[..., 0], "fog", 1, 0, r"\[64, 64\]"),
        (scene(31, 64), "fog", 1, 0, "32 pixels"),
        (scene(64, 64), "rain", 1, 0, "'rain'"),
        (scene(64, 64), "fog", 6, 0, "not 6"),
        (scene(64, 64), "fog", 1, -1, "not -1"),
    ],
)
def test_unusable_arguments_are_refused(image, name, severity, seed, match):
    with pytest.raises(ValueError, match=match):
        corrupt(image, name, severity, seed)


def flat(errors: dict[str, float]) -> dict[str, list[float]]:
    return {name: [error] * 5 for name, error in errors.items()}


def test_alexnet_has_the_published_mean_and_an_mce_of_100():
    assert tuple(ALEXNET_ERRORS) == COMMON_CORRUPTIONS
    score = mean_corruption_error(flat(ALEXNET_ERRORS))
    assert score.mce == pytest.approx(100) and score.mean_15 == pytest.approx(78.8993, abs=5e-5)
    assert score.mean == score.mean_15 and score.mean_19 is None


def test_mean_errors_equal_a_loop():
    random = np.random.default_rng(0)
    errors = {name: random.uniform(10, 90, 5).tolist() for name in reversed(CORRUPTIONS)}
    score = mean_corruption_error(errors)
    relative = [100 * sum(errors[name]) / (5 * ALEXNET_ERRORS[name]) for name in COMMON_CORRUPTIONS]
    assert score.mce == pytest.approx(sum(relative) / 15)
    assert score.mean_15 == pytest.approx(
        sum(sum(errors[name]) / 5 for name in COMMON_CORRUPTIONS) / 15
    )
    assert (
        score.mean_19
        == score.mean
        == pytest.approx(sum(sum(row) / 5 for row in errors.values()) / 19)
    )
    assert list(score.per_corruption) == list(CORRUPTIONS)


def test_the_paper_reports_a_plain_mean_not_an_mce():
    # spec_evaluation 9.4: a mean error of 48.1 per cent is an mCE near 61.
    assert mean_corruption_error(flat(dict.fromkeys(CORRUPTIONS, 48.1))).mce == pytest.approx(
        61.6, abs=1
    )


def test_a_part_of_the_corruptions_has_a_mean_only():
    score = mean_corruption_error({"fog": [10, 20, 30, 40, 50], "snow": [50.0] * 5})
    assert score.mean == 40 and score.per_corruption == {"snow": 50, "fog": 30}
    assert score.mean_15 is None and score.mean_19 is None and score.mce is None


def test_another_run_can_be_the_baseline():
    errors = flat(dict.fromkeys(COMMON_CORRUPTIONS, 30.0))
    baseline = mean_corruption_error(flat(dict.fromkeys(COMMON_CORRUPTIONS, 60.0))).per_corruption
    assert mean_corruption_error(errors, baseline).mce == pytest.approx(50)
    with pytest.raises(ValueError, match="above zero for fog"):
        mean_corruption_error(errors, {**baseline, "fog": 0.0})


def test_unusable_errors_are_refused():
    with pytest.raises(ValueError, match="known are"):
        mean_corruption_error({})
    with pytest.raises(ValueError, match="rain"):
        mean_corruption_error({"rain": [1.0] * 5})
    with pytest.raises(ValueError, match="'fog' has 3 errors"):
        mean_corruption_error({"fog": [1.0] * 3})
