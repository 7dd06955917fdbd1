"""What a step trains on: sizes, places, colours, and that all hangs on step, place and image."""

import colorsys
from itertools import product

import numpy as np
import pytest
import torch

from ibot.data.annotated.label_coding import IGNORED
from ibot.errors import DataError
from ibot.eval.dense.segmentation import samples
from ibot.eval.dense.segmentation.samples import (
    NUM_DISTORTIONS,
    Augmentation,
    TrainingImages,
    augmented,
    collate,
    crop_place,
    distorted,
    scaled_size,
)
from ibot.eval.dense.segmentation.schedule import Sample

IDENTITY = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""Statistics that leave levels as they are."""


@pytest.mark.parametrize(
    ("size", "short", "ratio", "expected"),
    [
        ((512, 683), 512, 1.0, (512, 683)),
        ((480, 640), 512, 0.5, (256, 341)),
        ((100, 1000), 512, 1.0, (205, 2048)),
        ((9, 50), 32, 2.0, (46, 256)),
    ],
)
def test_sizes_are_relative_to_the_crop(size, short, ratio, expected):
    assert scaled_size(*size, short, ratio, fixed=False) == expected


def test_sizes_may_be_relative_to_the_images_own_pixels():
    assert scaled_size(75, 1000, 512, 0.5, fixed=True) == (38, 500)
    assert scaled_size(1, 1, 512, 0.1, fixed=True) == (1, 1)


def test_a_crop_holds_several_classes_where_a_draw_finds_some():
    labels = np.zeros((40, 40), np.int16)
    labels[:, 20:] = 1
    draws = np.array([[0.0, 0.0], [0.0, 0.99], [0.0, 0.5], [0.5, 0.4]])
    assert crop_place(labels, 16, draws) == (slice(0, 16), slice(12, 28))
    # The share is that of the pixels that count: of the third crop eight columns of ten.
    labels[:, :18] = IGNORED
    assert crop_place(labels, 16, draws) == (slice(12, 28), slice(10, 26))
    single = np.zeros((40, 40), np.int16)
    assert crop_place(single, 16, draws) == (slice(12, 28), slice(10, 26)), "the last one"
    assert crop_place(single[:9, :9], 16, draws) == (slice(0, 16), slice(0, 16))
    assert crop_place(np.full((40, 40), IGNORED, np.int16), 16, draws)[0] == slice(12, 28)


def slow_distortion(image, numbers):
    """8.11 in words: each of four with probability one half, levels clipped and cut."""

    def levels(values):
        return np.clip(values, 0, 255).astype(np.uint8)

    does = [numbers[i] < 0.5 for i in (0, 2, 4, 6)]
    image = image.copy()
    if does[0]:
        image = levels(image.astype(np.float32) + np.float32(-32 + 64 * numbers[1]))
    if does[1]:
        image = levels(image.astype(np.float32) * np.float32(0.5 + numbers[3]))
    return image


def test_brightness_and_contrast_are_cut_to_whole_levels():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    for first, second, amount in product((0.2, 0.8), (0.2, 0.8), (0.0, 0.3, 0.99)):
        numbers = [first, amount, second, amount, 0.9, 0, 0.9, 0, 0.1]
        expected = slow_distortion(image, numbers)
        assert (distorted(image, numbers) == expected).all()
        late = [*numbers[:8], 0.9]
        assert (distorted(image, late) == expected).all(), "without colours it is the same"
    assert (distorted(image, [0.9] * NUM_DISTORTIONS) == image).all()


def test_hue_and_saturation_are_those_of_the_colour_wheel():
    image = np.zeros((1, 1, 3), np.uint8) + np.array([200, 60, 40], np.uint8)
    hue = colorsys.rgb_to_hsv(*(image[0, 0] / 255))[0]
    only_hue = [0.9, 0, 0.9, 0, 0.9, 0, 0.1, 0.0, 0.1]  # 18 half degrees back
    turned = colorsys.rgb_to_hsv(*(distorted(image, only_hue)[0, 0] / 255))
    assert (turned[0] - hue) % 1 == pytest.approx(1 - 36 / 360, abs=0.01)
    only_saturation = [0.9, 0, 0.9, 0, 0.1, 0.0, 0.9, 0, 0.1]  # half of it
    before = colorsys.rgb_to_hsv(*(image[0, 0] / 255))
    after = colorsys.rgb_to_hsv(*(distorted(image, only_saturation)[0, 0] / 255))
    assert after[1] == pytest.approx(before[1] / 2, abs=0.01)
    assert after[2] == pytest.approx(before[2], abs=0.01)


def test_contrast_before_and_after_the_colours_differ():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    numbers = [0.9, 0, 0.1, 0.99, 0.1, 0.9, 0.1, 0.9]
    assert (distorted(image, [*numbers, 0.1]) != distorted(image, [*numbers, 0.9])).any()


def test_pixels_keep_their_labels(monkeypatch):
    """The colour says the class, also after scaling, cropping and flipping."""
    monkeypatch.setattr(samples, "distorted", lambda image, numbers: image)
    labels = np.zeros((50, 70), np.int16)
    labels[10:30, 20:50], labels[30:, :40] = 1, 2
    pixels = (100 * labels[..., None] + np.zeros(3)).astype(np.uint8)
    shapes, mirrored = set(), set()
    for step in range(20):
        image, found = augmented(pixels, labels, Augmentation(32), 0, Sample(step, 0, 0))
        assert image.shape[:2] == found.shape and max(found.shape) <= 32
        near = np.rint(image[..., 0] / 100)
        assert (near == found).mean() > 0.9
        shapes.add(found.shape)
        mirrored.add(tuple(found[0]) != tuple(found[0, ::-1]))
    assert len(shapes) > 3


def test_what_is_drawn_hangs_on_step_place_and_image_alone(striped):
    train, _ = striped
    images = TrainingImages(train, Augmentation(32), IDENTITY, seed=0)

    def drawn(step=3, place=1, index=0, dataset=images):
        return dataset[Sample(step, place, index)].image

    assert torch.equal(drawn(), drawn())
    others = drawn(step=4), drawn(place=2), drawn(index=1)
    other_seed = TrainingImages(train, Augmentation(32), IDENTITY, seed=1)
    assert not any(torch.equal(drawn(), other) for other in (*others, drawn(dataset=other_seed)))
    small = images[Sample(0, 0, 2)]  # 9 x 50 pixels
    batch = collate([images[Sample(0, 1, 0)], small])
    assert batch.images.shape == (2, 3, 32, 32) and batch.labels.dtype == torch.int16
    empty = (small.image == 0).all(dim=0)
    assert empty.any() and (small.labels[empty] == IGNORED).all()


def test_unreadable_images_are_replaced_and_maps_that_do_not_fit_are_returned_as_errors(
    striped, tmp_path
):
    train, _ = striped
    broken = train.taken([0, 1])
    (tmp_path / "x").write_bytes(b"no image")

    class Broken:
        def __init__(self, bad):
            self.bad = bad

        def __len__(self):
            return 2

        def name(self, index):
            return broken.name(index)

        def pair(self, index):
            from ibot.data.decode import UnreadableImage

            if index in self.bad:
                raise UnreadableImage("corrupt")
            if index == 1:
                raise DataError("sizes", fix="mend")
            return broken.pair(index)

    images = TrainingImages(Broken({1}), Augmentation(32), IDENTITY, 0)
    assert images[Sample(0, 0, 1)].bad == [(1, "corrupt")]
    failing = TrainingImages(Broken(set()), Augmentation(32), IDENTITY, 0)[Sample(0, 0, 1)]
    assert isinstance(collate([failing]), DataError)
    none = TrainingImages(Broken({0, 1}), Augmentation(32), IDENTITY, 0)[Sample(0, 0, 1)]
    assert "2 training images in a row" in none.what
