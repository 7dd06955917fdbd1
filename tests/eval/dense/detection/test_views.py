"""What a detector sees: objects stay under their boxes and masks, whatever is done to the image."""

import numpy as np
import pytest
import torch
from coco_folder import EMPTY, write_coco
from PIL import Image

from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD
from ibot.data.annotated.coco import Objects
from ibot.data.annotated.coco_folders import open_coco
from ibot.errors import DataError
from ibot.eval.dense.detection.settings import DetectionSettings
from ibot.eval.dense.detection.views import (
    Draws,
    Seen,
    Sides,
    TestViews,
    TrainingViews,
    collate,
    cropped,
    flipped,
    resized,
    training_view,
)

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
SMALL = DetectionSettings(short=96, long=160)


def scene(random, size=(90, 130), count=4):
    """Objects of one grey level each that do not meet, as masks have them."""
    image, masks, boxes = np.zeros((*size, 3), np.uint8), [], []
    for k in range(count):  # each has its own column
        low, high = k * size[1] // count, (k + 1) * size[1] // count
        left, top = int(random.integers(low, high - 14)), int(random.integers(0, size[0] - 20))
        right, bottom = (
            int(random.integers(left + 12, high)),
            int(random.integers(top + 12, size[0])),
        )
        mask = np.zeros(size, np.uint8)
        mask[top:bottom, left:right] = 1
        image[mask > 0] = 60 * (k + 1)
        masks.append(mask)
        boxes.append([left, top, right, bottom])
    labels = np.arange(count)
    return Seen(image, Objects(np.array(boxes, np.float32), labels, np.stack(masks)))


def dilated(mask, by=4, beyond=False):
    """Where a pixel of the mask is near; what lies beyond the image may count."""
    grown = np.zeros(mask.shape, bool)
    padded = np.pad(mask > 0, by, constant_values=beyond)
    for i in range(2 * by + 1):
        for j in range(2 * by + 1):
            grown |= padded[i : i + mask.shape[0], j : j + mask.shape[1]]
    return grown


def eroded(mask):
    """Where no pixel outside of the mask is near."""
    return ~dilated(mask == 0, beyond=True)


def drawn(random):
    return Draws(*random.random(8).tolist())


def test_the_published_sizes():
    sides = Sides.of(800)
    assert sides.short == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert sides.before_crop == (400, 500, 600) and sides.crop == (384, 600)
    assert Sides.of(400).short == tuple(range(240, 401, 16)) and Sides.of(400).crop == (192, 300)


@pytest.mark.parametrize("policy", ["published", "resize", "none"])
def test_boxes_and_masks_stay_on_their_objects(policy):
    random = np.random.default_rng(0)
    settings = DetectionSettings(short=96, long=160, policy=policy)
    shapes, kept = set(), 0
    for case in range(60):
        seen = scene(random, size=(90, 130) if case % 2 else (130, 90))
        image, (boxes, labels, masks) = training_view(seen, settings, drawn(random))
        height, width = image.shape[:2]
        shapes.add((height, width))
        assert max(height, width) <= 160 and masks.shape[1:] == (height, width)
        assert boxes.dtype == np.float32 and (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        kept += len(boxes)
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            assert (image[..., 0][eroded(mask)] == 60 * (label + 1)).all()
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert np.abs(box - around).max() <= 4, (box, around)
        others = (image[..., 0] > 0) & ~dilated(masks.any(0))
        assert not others[4:-4, 4:-4].any()  # at the end of a crop less than a pixel may be left
    assert shapes == {(96, 139), (139, 96)} if policy == "none" else len(shapes) > 10
    assert (kept < 240) == (policy == "published")  # a crop may leave nothing of an object


def nearest(mask, size):
    """Each pixel of a resized mask, in a loop."""
    out = np.zeros(size, mask.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = int(i * mask.shape[0] / size[0]), int(j * mask.shape[1] / size[1])
            out[i, j] = mask[min(y, mask.shape[0] - 1), min(x, mask.shape[1] - 1)]
    return out


def test_flip_resize_and_crop_equal_loops_over_pixels_and_boxes():
    random = np.random.default_rng(1)
    for _ in range(5):
        seen = scene(random, size=tuple(random.integers(62, 90, 2).tolist()))
        height, width = seen.image.shape[:2]
        mirrored, draws = flipped(seen), drawn(random)
        smaller = resized(mirrored, 48, 60)
        h, w = smaller.image.shape[:2]
        factor = min(60 / max(height, width), 48 / min(height, width))
        assert (h, w) == (int(height * factor + 0.5), int(width * factor + 0.5))
        window = cropped(smaller, (20, 40), draws)
        sides = [
            low + int(d * (min(side, 40) - low + 1))
            for side, d, low in zip((h, w), draws[4:6], (20, 20), strict=True)
        ]
        top, left = (
            int(d * (side - cut + 1))
            for side, cut, d in zip((h, w), sides, draws[6:8], strict=True)
        )
        assert window.image.shape[:2] == tuple(sides)
        assert np.array_equal(
            window.image, smaller.image[top : top + sides[0], left : left + sides[1]]
        )
        kept = 0
        for k, (box, mask) in enumerate(zip(seen.objects.boxes, seen.objects.masks, strict=True)):
            around = [width - box[2], box[1], width - box[0], box[3]]
            assert mirrored.objects.boxes[k].tolist() == around
            scaled = [v * f for v, f in zip(around, (w / width, h / height) * 2, strict=True)]
            assert smaller.objects.boxes[k] == pytest.approx(scaled, abs=1e-4)
            there = nearest(mask[:, ::-1], (h, w))
            assert np.array_equal(smaller.objects.masks[k], there)
            moved = np.array(scaled) - [left, top, left, top]
            moved = moved.clip(0, [sides[1], sides[0]] * 2)
            if moved[2] <= moved[0] or moved[3] <= moved[1]:
                continue
            assert window.objects.labels[kept] == k
            assert window.objects.boxes[kept] == pytest.approx(moved, abs=1e-4)
            cut = there[top : top + sides[0], left : left + sides[1]]
            assert np.array_equal(window.objects.masks[kept], cut)
            kept += 1
        assert kept == len(window.objects.boxes)


def test_crops_take_every_size_and_place_with_both_ends():
    seen = Seen(np.zeros((9, 50, 3), np.uint8), scene(np.random.default_rng(0)).objects)
    at = [i / 40 for i in range(40)]
    shapes = {
        cropped(seen, (4, 7), Draws(0, 0, 0, 0, a, b, 0.999, 0)).image.shape[:2]
        for a in at
        for b in at
    }
    assert shapes == {(h, w) for h in range(4, 8) for w in range(4, 8)}
    small = Seen(seen.image[:3], seen.objects)
    assert cropped(small, (4, 7), Draws(*[0.99] * 8)).image.shape[:2] == (3, 7)


def test_half_of_the_images_are_mirrored_and_half_are_cropped():
    seen = scene(np.random.default_rng(0))
    flips = [training_view(seen, SMALL, Draws(flip, 0, 0.99, *[0.5] * 5)) for flip in (0.49, 0.5)]
    assert np.array_equal(flips[0].image, flipped(flips[1]).image)
    whole, part = (training_view(seen, SMALL, Draws(1, p, 0.99, *[0.5] * 5)) for p in (0.49, 0.5))
    assert whole.image.shape[:2] == (96, 139) and part.image.shape[:2] != (96, 139)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return open_coco(str(write_coco(tmp_path_factory.mktemp("coco"))))


def views(images, **more):
    about = {"settings": SMALL, "statistics": IMAGENET, "masks": True, "seed": 0}
    return TrainingViews(images=images, **{**about, **more})


def equal(a, b):
    return a.image.shape == b.image.shape and bool((a.image == b.image).all())


def test_views_hang_on_seed_step_image_and_place(images):
    train, _ = images
    first = views(train)[(3, 1, 0)]
    assert equal(first, views(train)[(3, 1, 0)])
    assert torch.equal(first.target.boxes, views(train)[(3, 1, 0)].target.boxes)
    others = [views(train)[(4, 1, 0)], views(train)[(3, 1, 1)], views(train, seed=1)[(3, 1, 0)]]
    assert not any(equal(first, other) for other in others)


def test_a_batch_is_normalised_and_padded_with_zeros_to_its_largest_image(images):
    train, _ = images
    keys = [(0, i, i) for i in (0, EMPTY, 4)]
    samples = [views(train)[key] for key in keys]
    batch, bad = collate(samples)
    assert bad == [] and batch.index == [0, EMPTY, 4] and batch.images.dtype == torch.float32
    height, width = (-(-max(size[a] for size in batch.sizes) // 32) * 32 for a in (0, 1))
    assert batch.images.shape == (3, 3, height, width)
    for i, (sample, (h, w)) in enumerate(zip(samples, batch.sizes, strict=True)):
        assert torch.equal(batch.images[i, :, :h, :w], sample.image)
        assert not batch.images[i, :, h:].any() and not batch.images[i, :, :, w:].any()
        target = batch.targets[i]
        assert target.masks.shape == (len(target.boxes), h, w) and target.masks.dtype == torch.uint8
        assert target.labels.dtype == torch.int64 and target.boxes.shape == (len(target.labels), 4)
    assert len(batch.targets[1].boxes) == 0
    without = views(train, masks=False)[keys[0]]
    assert without.target.masks is None and equal(without, samples[0])


def test_batches_are_padded_to_whole_cells_of_the_coarsest_map(images):
    sample = views(images[0])[(0, 0, 0)]
    for multiple in (32, 48, 64):
        height, width = collate([sample], multiple)[0].images.shape[2:]
        assert height % multiple == width % multiple == 0
        assert 0 <= height - sample.image.shape[1] < multiple


def test_pixels_are_normalised_by_the_published_numbers(images):
    settings = DetectionSettings(short=60, long=80, policy="none", flip=0)
    sample = views(images[0], settings=settings)[(0, 0, 0)]
    pixels = images[0].read(0).astype(np.float32)
    wanted = (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    assert np.abs(sample.image.permute(1, 2, 0).numpy() - wanted).max() < 1e-5
    assert np.array_equal(sample.target.boxes, images[0].objects(0, masks=False).boxes)


def test_an_image_that_cannot_be_read_is_replaced_and_told(tmp_path):
    train, val = open_coco(str(write_coco(tmp_path)))
    (tmp_path / "train" / "1.png").write_bytes(b"no image")
    sample = views(train)[(0, 1, 0)]
    assert sample.index == EMPTY and [i for i, _ in sample.bad] == [1]
    for file in (tmp_path / "train").iterdir():
        file.write_bytes(b"no image")
    error = views(train)[(0, 1, 0)]
    assert isinstance(error, DataError) and "8 training images in a row" in error.what
    assert collate([sample, error]) is error
    (tmp_path / "val" / "0.png").unlink()
    tests = TestViews(images=val, indices=range(4), settings=SMALL, statistics=IMAGENET)
    assert tests[0].bad[0][0] == 0 and tests[1].bad == []


@pytest.mark.parametrize("size", [(60, 80), (1, 1), (3, 200), (200, 3), (33, 97)])
def test_tests_resize_and_say_by_how_much(tmp_path, size):
    _, val = open_coco(str(write_coco(tmp_path)))
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "val" / "2.png")
    val.sizes[2] = size
    (sample,) = [TestViews(images=val, indices=[2], settings=SMALL, statistics=IMAGENET)[0]]
    h, w = sample.image.shape[1:]
    assert (h, w) == resized(
        Seen(pixels, scene(np.random.default_rng(0)).objects), 96, 160
    ).image.shape[:2]
    assert max(h, w) <= 160 and sample.factors == (h / size[0], w / size[1])
    batch, _ = collate([sample])
    assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
    assert batch.sizes == [(h, w)] and len(batch.targets[0].boxes) == 0
