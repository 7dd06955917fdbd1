"""Windows cover every pixel of images of any size, and scores are means over them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.eval.dense.segmentation.windows import (
    SCALES,
    SlidingTest,
    likeliest,
    slide,
    window_starts,
)

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("side", "crop", "stride", "expected"),
    [
        (512, 512, 341, [0]),
        (683, 512, 341, [0, 171]),
        (2048, 512, 341, [0, 341, 682, 1023, 1364, 1536]),
        (300, 512, 341, [0]),
        (513, 512, 341, [0, 1]),
        (640, 640, 426, [0]),
    ],
)
def test_the_published_windows(side, crop, stride, expected):
    assert window_starts(side, crop, stride) == expected


def coarse(images):
    """A network with cells of 8 pixels that sees its window's place: means and a ramp."""
    cells = F.avg_pool2d(images, 8)
    return cells + torch.linspace(0, 1, cells.shape[-1])


@pytest.mark.parametrize("size", [(70, 30), (41, 100), (20, 33), (32, 32), (1, 5)])
def test_every_pixel_gets_the_mean_of_its_windows(size):
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    found = slide(coarse, image, 32, 21, windows=3)
    height, width = size
    filled = torch.zeros(3, max(height, 32), max(width, 32))
    filled[:, :height, :width] = image
    total, times = torch.zeros_like(filled), torch.zeros(filled.shape[1:])
    for top in window_starts(filled.shape[1], 32, 21):
        for left in window_starts(filled.shape[2], 32, 21):
            window = filled[None, :, top : top + 32, left : left + 32]
            large = F.interpolate(coarse(window), (32, 32), mode="bilinear")[0]
            total[:, top : top + 32, left : left + 32] += large
            times[top : top + 32, left : left + 32] += 1
    assert (times > 0).all()
    assert torch.allclose(found, (total / times)[:, :height, :width], atol=1e-5)


def test_the_class_is_that_of_the_resized_scores_however_many_there_are():
    logits = torch.randn(40, 6, 7)
    large = F.interpolate(logits[None], (31, 45), mode="bilinear", align_corners=False)[0]
    assert torch.equal(likeliest(logits, (31, 45)), large.argmax(dim=0))
    tied = torch.zeros(40, 2, 2)
    assert (likeliest(tied, (3, 3)) == 0).all()


def brightness(images):
    """Two classes: dark and bright."""
    level = F.avg_pool2d(images, 4)[:, :1]
    return torch.cat([-level, level], dim=1)


@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("size", [(50, 90), (33, 7), (128, 128)])
def test_classes_come_at_the_size_of_the_image(size, fixed, multi_scale):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, size[1] // 2 :] = 255
    test = SlidingTest(
        crop=32, stride=21, statistics=STATISTICS, fixed=fixed, multi_scale=multi_scale
    )
    found = test.classes(brightness, pixels, torch.device("cpu"))[0].numpy()
    assert found.shape == size
    wrong = found != (pixels[..., 0] > 0)
    assert wrong.mean() < 0.3 and not wrong[:, 0].any() and not wrong[:, -1].any()


def test_the_multi_scale_test_is_the_mean_of_twelve():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    seen = []

    def scores(images):
        seen.append(images.shape)
        return coarse(images)

    test = SlidingTest(crop=32, stride=32, statistics=STATISTICS, multi_scale=True, windows=99)
    (found,) = test.classes(scores, pixels, torch.device("cpu"))
    total = torch.zeros(3, 40, 48)
    for scale in SCALES:
        short = max(32, int(32 * scale))
        size = int(40 * short / 40 + 0.5), int(48 * short / 40 + 0.5)
        for mirrored in (False, True):
            logits = test._logits(coarse, pixels, size, torch.device("cpu"), mirrored=mirrored)
            large = F.interpolate(logits[None], (40, 48), mode="bilinear")[0]
            total += large.softmax(dim=0)
    assert (found == total.argmax(dim=0)).double().mean() > 0.999
    assert len(seen) == 8, "the three smallest scales are one"

    def two(images):
        return torch.cat([coarse(images), -coarse(images)], dim=1)

    for how in (test, replace(test, multi_scale=False)):
        both = how.classes(two, pixels, torch.device("cpu"), heads=2)
        for head, of_head in ((coarse, both[0]), (lambda images: -coarse(images), both[1])):
            assert torch.equal(of_head, how.classes(head, pixels, torch.device("cpu"))[0])
