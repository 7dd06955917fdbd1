"""What an evaluation shows of an image, against torchvision and slices, on shapes of all kinds."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision

from ibot.config.reading import RGB
from ibot.data.decode import UnreadableImage
from ibot.eval.features.views import View, in_batches, view_batches

SIZES = [(37, 61), (80, 45), (24, 40), (40, 24), (101, 100), (33, 33), (19, 90)]
VIEW = (24, 40)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", [0, 53])
def test_a_crop_is_torchvisions_resize_and_centre(size, interpolation, resize):
    image = noise(*size)
    for view, side in ((VIEW, 46), ((40, 24), 46), ((32, 32), 37)):
        got = View(view, interpolation=interpolation, resize=resize, keep=False).render(image)
        mode = InterpolationMode(interpolation)
        resized = torchvision.resize(Image.fromarray(image), resize or side, mode)
        np.testing.assert_array_equal(got, torchvision.center_crop(resized, list(view)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_without_a_crop_the_whole_image_is_squashed_or_padded(size):
    image, (height, width) = noise(*size), VIEW
    kinds = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    for name, kind in kinds.items():
        squashed = View(VIEW, "squash", name, keep=False).render(image)
        plain = Image.fromarray(image).resize((width, height), kind)
        np.testing.assert_array_equal(squashed, np.asarray(plain))
        padded = View(VIEW, "pad", name, keep=False).render(image)
        scale = min(height / size[0], width / size[1])
        h, w = round(scale * size[0]), round(scale * size[1])
        assert h == height or w == width
        want = np.zeros((*VIEW, 3), np.uint8)
        inner = np.asarray(Image.fromarray(image).resize((w, h), kind))
        for i, j in np.ndindex(h, w):
            want[(height - h) // 2 + i, (width - w) // 2 + j] = inner[i, j]
        np.testing.assert_array_equal(padded, want)


def test_a_strip_is_padded_to_one_line_at_least():
    image = np.full((1, 600, 3), 200, np.uint8)
    assert (View(VIEW, "pad").render(image) > 0).any(axis=(1, 2)).sum() == 1
    assert (View(VIEW, "pad").render(image.swapaxes(0, 1)) > 0).any(axis=(0, 2)).sum() == 1


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_images_of_the_views_size_are_kept_unless_it_is_said_otherwise(fit):
    image = noise(*VIEW)
    assert View(VIEW, fit).render(image) is image
    again = View(VIEW, fit, keep=False).render(image)
    assert np.array_equal(again, image) == (fit != "crop")
    turned = image.swapaxes(0, 1)
    assert View(VIEW, fit).render(turned).shape == (*VIEW, 3)


def test_only_a_crop_refuses_strips():
    thin, thinner = noise(100, 2), noise(2, 101)
    assert View(VIEW).render(thin).shape == (*VIEW, 3)
    with pytest.raises(UnreadableImage) as caught:
        View(VIEW).render(thinner)
    assert "101 x 2" in caught.value.reason
    assert View(VIEW, "squash").render(thinner).shape == (*VIEW, 3)


class Pictures:
    """Images by number; some cannot be read."""

    channels = RGB

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 9

    def name(self, index):
        return str(index)

    def read(self, index):
        if index in self.bad:
            raise UnreadableImage(f"no {index}")
        return noise(30 + index, 50, index)


def test_batches_hold_the_images_asked_for_in_their_order():
    view, numbers = View(VIEW), np.array([7, 2, 0, 5, 8, 3, 4])
    batches = in_batches(numbers, 3)
    assert [batch.tolist() for batch in batches] == [[7, 2, 0], [5, 8, 3], [4]]
    images = Pictures(bad=(2, 4))
    found = list(view_batches(images, view, batches))
    assert [part.positions.tolist() for part in found] == [[7, 0], [5, 8, 3], []]
    assert [part.bad for part in found] == [[(2, "no 2")], [], [(4, "no 4")]]
    for part in found:
        assert part.positions.dtype == np.int64 and part.views.dtype == torch.uint8
        want = [view.render(images.read(index)) for index in part.positions.tolist()]
        want = np.stack(want).transpose(0, 3, 1, 2) if want else np.zeros((0, 3, *VIEW))
        np.testing.assert_array_equal(part.views.numpy(), want)


def test_a_limit_reduces_what_is_larger_and_leaves_the_rest():
    view = View((64, 64), fit="within", interpolation="lanczos")
    image = noise(90, 150)
    want = Image.fromarray(image)
    want.thumbnail((64, 64), Image.Resampling.LANCZOS)
    assert want.size == (64, 38)
    np.testing.assert_array_equal(view.render(image), np.asarray(want))
    small = image[:40, :64]
    np.testing.assert_array_equal(view.render(small), small)
    assert view.varies and not View((64, 64)).varies


@pytest.mark.parametrize("fit", ["crop", "squash", "pad", "within"])
@pytest.mark.parametrize("size", [(150, 240), (24, 40), (90, 60)])
def test_an_enlarged_view_shows_what_the_view_shows(fit, size):
    """Reduced again it is the view, up to how it was reduced; at once it is the view itself."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    view = View((24, 40), fit)
    small = view.render(image)
    np.testing.assert_array_equal(view.enlarged(image, 1), small)
    large = view.enlarged(image, 3)
    assert large.shape == (3 * small.shape[0], 3 * small.shape[1], 3)
    again = Image.fromarray(large).resize(small.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(again).astype(float) - small).mean() < 5
    moved = np.roll(small, 4, axis=1).astype(float)
    assert np.abs(np.asarray(again) - moved).mean() > 10
