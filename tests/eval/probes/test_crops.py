"""Crops of the linear probe against slices of the images, one by one."""

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.reading import RGB
from ibot.config.schema import AugmentConfig
from ibot.data.decode import UnreadableImage
from ibot.data.params import view_params
from ibot.eval.probes.crops import crop_batches

SIZE = (24, 40)


class Pictures:
    """Random images of many shapes; some cannot be read."""

    channels = RGB

    def __init__(self, count, bad=()):
        rng = np.random.default_rng(3)
        sizes = [(120, 31), (30, 100), *rng.integers(20, 90, (count - 2, 2)).tolist()]
        self.pixels = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.bad = bad

    def __len__(self):
        return len(self.pixels)

    def read(self, index):
        if index in self.bad:
            raise UnreadableImage("broken")
        return self.pixels[index]

    def name(self, index):
        return str(index)


def plain_crop(image, index, seed, epoch):
    """An eighth to all of the area at 3:4 to 4:3, cut, made smaller bilinearly, mirrored or not."""
    config = AugmentConfig(num_global=1, num_local=0, global_scale=(0.08, 1.0), flip=0.5)
    sizes = np.array([image.shape[:2]])
    params = view_params(config, seed, epoch, np.array([index]), sizes)
    top, left, height, width = params.box[0, 0].tolist()
    cut = Image.fromarray(image[top : top + height, left : left + width])
    crop = np.asarray(cut.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))
    return np.fliplr(crop) if params.flip[0, 0] else crop


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (4, 3)])
def test_each_crop_is_the_slice_that_its_image_draws(seed, epoch):
    images = Pictures(20, bad=(3, 8, 9))
    steps = [np.array([5, 1, 3, 17]), np.array([8, 9]), np.array([0, 19])]
    found = list(crop_batches(images, SIZE, steps, seed, epoch))
    assert [part.positions.tolist() for part in found] == [[5, 1, 17], [], [0, 19]]
    for part in found:
        assert part.views.shape == (len(part.positions), 3, *SIZE)
        assert part.views.dtype == torch.uint8 and part.positions.dtype == np.int64
        for index, view in zip(part.positions.tolist(), part.views, strict=True):
            want = plain_crop(images.pixels[index], index, seed, epoch)
            np.testing.assert_array_equal(view.permute(1, 2, 0).numpy(), want)


def test_half_of_the_crops_are_mirrored_and_areas_reach_both_ends():
    images = Pictures(2)
    images.pixels = [np.tile(np.arange(200, dtype=np.uint8)[:, None], (200, 1, 3))] * 2
    widths, mirrored = [], 0
    for epoch in range(60):
        (part,) = crop_batches(images, (32, 32), [np.array([0, 1])], 0, epoch)
        ends = part.views[:, 0, 16, [0, -1]].float()
        mirrored += int((ends[:, 0] > ends[:, 1]).sum())
        widths += (ends[:, 0] - ends[:, 1]).abs().tolist()
    assert 0.35 < mirrored / 120 < 0.65
    assert min(widths) < 200 * 0.08**0.5 and max(widths) > 180


def test_a_limit_that_others_set_in_pillow_is_none_here(monkeypatch):
    images, steps = Pictures(4), [np.arange(4)]
    (want,) = crop_batches(images, SIZE, steps, 0, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (got,) = crop_batches(images, SIZE, steps, 0, 0)
    assert torch.equal(got.views, want.views)
