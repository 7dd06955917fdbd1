import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision

from ibot.config.schema import AugmentConfig
from ibot.data import pixels
from ibot.data.params import view_params
from ibot.data.pixels_batch import render_batch

OPERATIONS = {
    "resized_crop": lambda im, top, left, h, w, size: pixels.resized_crop(
        im, top, left, h, w, (size, size)
    ),
    "hflip": lambda im: im.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "grayscale": pixels.grayscale,
    "brightness": pixels.brightness,
    "contrast": pixels.contrast,
    "saturation": pixels.saturation,
    "hue": pixels.hue,
    "blur": pixels.blur,
    "solarize": pixels.solarize,
    "resize_shorter": pixels.resize_shorter,
    "center_crop": lambda im, size: pixels.center_crop(im, (size, size)),
}


def test_golden_augmentations_are_equal_bit_by_bit(golden):
    cases = json.loads((golden / "augment.json").read_text())["cases"]
    arrays = np.load(golden / "augment.npz", allow_pickle=False)
    assert len(cases) > 5
    for case in cases:
        image = Image.fromarray(arrays[f"image/{case['image']}"])
        for (name, *args), output in zip(case["ops"], case["outputs"], strict=True):
            image = OPERATIONS[name](image, *args)
            np.testing.assert_array_equal(
                np.asarray(image), arrays[output], err_msg=f"{case['name']} {name}"
            )
        if "normalized" in case:
            got = pixels.normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1))
            np.testing.assert_allclose(got.numpy(), arrays[case["normalized"]], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_lookup_tables_equal_pillows_enhancers(seed):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (33, 47, 3), dtype=np.uint8))
    for factor in rng.uniform(0.3, 1.8, 8):
        for ours, theirs in (
            (pixels.brightness, ImageEnhance.Brightness),
            (pixels.contrast, ImageEnhance.Contrast),
            (pixels.saturation, ImageEnhance.Color),
        ):
            np.testing.assert_array_equal(
                np.asarray(ours(image, factor)), np.asarray(theirs(image).enhance(factor))
            )
    np.testing.assert_array_equal(
        np.asarray(pixels.solarize(image)), np.asarray(ImageOps.solarize(image))
    )


def test_render_gives_every_view_its_size_and_only_its_operations():
    config = AugmentConfig(
        num_local=3,
        global_size=(32, 24),
        local_size=(16, 16),
        jitter=0.0,
        gray=0.0,
        blur=(0, 0, 0),
        solarize=(0, 0, 0),
        flip=0.0,
    )
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    params = view_params(config, 0, 0, np.array([7]), np.array([[40, 50]]))
    views = pixels.render(image, params, 0, config)
    assert [v.shape for v in views] == [(32, 24, 3)] * 2 + [(16, 16, 3)] * 3
    for view, got in enumerate(views):
        top, left, h, w = params.box[0, view]
        size = (24, 32) if view < 2 else (16, 16)
        want = Image.fromarray(image[top : top + h, left : left + w]).resize(
            size, Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(got, np.asarray(want))


def test_render_applies_the_drawn_operations_in_their_order():
    config = AugmentConfig(num_local=2, global_size=(32, 32), local_size=(16, 16))
    image = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    index = np.arange(20)
    params = view_params(config, 3, 1, index, np.tile([[64, 48]], (20, 1)))
    for row in index:
        for view, got in enumerate(pixels.render(image, params, row, config)):
            top, left, h, w = params.box[row, view].tolist()
            side = 32 if view < 2 else 16
            want = pixels.resized_crop(Image.fromarray(image), top, left, h, w, (side, side))
            want = ImageOps.mirror(want) if params.flip[row, view] else want
            if params.jitter_order[row, view, 0] != 255:
                for op in params.jitter_order[row, view]:
                    factor = float(params.jitter[row, view, op])
                    if op < 3:
                        enhancer = (
                            ImageEnhance.Brightness,
                            ImageEnhance.Contrast,
                            ImageEnhance.Color,
                        )[op]
                        want = enhancer(want).enhance(factor)
                    else:
                        hsv = np.array(want.convert("HSV"))
                        hsv[..., 0] += np.int8(int(factor * 255)).view(np.uint8)
                        want = Image.fromarray(hsv, "HSV").convert("RGB")
            want = want.convert("L").convert("RGB") if params.gray[row, view] else want
            sigma = float(params.blur_sigma[row, view])
            want = pixels.blur(want, sigma) if sigma else want
            want = ImageOps.solarize(want) if params.solarize[row, view] else want
            np.testing.assert_array_equal(got, np.asarray(want))


def test_a_turned_view_is_the_view_turned():
    """Flips and turns move the cut box; blur and colours act on what they moved."""
    plain = AugmentConfig(
        num_local=2,
        global_size=(32, 32),
        local_size=(16, 16),
        flip=0.0,
        blur=(0.0, 0.0, 0.0),
    )
    moved = replace(plain, flip=0.5, vertical_flip=0.5, turn=0.75)
    image = np.random.default_rng(4).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    index, sizes = np.arange(40), np.tile([[64, 48]], (40, 1))
    params = view_params(moved, 3, 1, index, sizes)
    before = view_params(plain, 3, 1, index, sizes)
    seen = set()
    for row in index:
        views = zip(
            pixels.render(image, params, row, moved),
            pixels.render(image, before, row, plain),
            strict=True,
        )
        for view, (got, want) in enumerate(views):
            flip, upside_down = params.flip[row, view], params.vertical_flip[row, view]
            turn = params.turn[row, view]
            want = want[:, ::-1] if flip else want
            want = want[::-1] if upside_down else want
            np.testing.assert_array_equal(got, np.rot90(want, turn))
            seen.add((bool(flip), bool(upside_down), int(turn)))
    assert len(seen) == 16


@pytest.mark.parametrize("moves", [{}, {"vertical_flip": 0.5, "turn": 0.75}])
@pytest.mark.parametrize(("seed", "size"), [(0, (32, 32)), (1, (32, 24)), (2, (80, 64))])
def test_a_batch_renders_to_the_bytes_of_its_single_images(seed, size, moves):
    size = (size[0], size[0]) if moves else size
    config = AugmentConfig(
        num_local=3, global_size=size, local_size=(16, 16), blur=(0.5, 0.3, 0.5), **moves
    )
    rng = np.random.default_rng(seed)
    images = [
        rng.integers(0, 256, (*rng.integers(20, 90, 2), 3), dtype=np.uint8) for _ in range(24)
    ]
    images += [np.full((30, 30, 3), level, np.uint8) for level in (0, 127, 128, 255)]
    sizes = np.array([image.shape[:2] for image in images])
    params = view_params(config, seed, 2, np.arange(len(images)), sizes)
    batch = render_batch(images, params, config)
    for row, image in enumerate(images):
        for view, want in enumerate(pixels.render(image, params, row, config)):
            np.testing.assert_array_equal(
                batch[view][row], want, err_msg=f"image {row}, view {view}"
            )


def test_bytes_are_normalised_channel_by_channel_and_can_change_their_statistics():
    first, second = ((0.2, 0.5, 0.7), (0.1, 0.3, 0.9)), ((0.4, 0.1, 0.3), (0.5, 0.2, 0.6))
    views = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    for mean, std in (first, second):
        got = pixels.normalize(views, (mean, std))
        for channel in range(3):
            want = (views[:, channel] / 255 - mean[channel]) / std[channel]
            torch.testing.assert_close(got[:, channel], want)
    changed = pixels.renormalize(pixels.normalize(views, first), first, second)
    torch.testing.assert_close(changed, pixels.normalize(views, second), rtol=1e-4, atol=1e-5)
    given = pixels.normalize(views)
    assert pixels.renormalize(given, first, first) is given
    torch.testing.assert_close(given, pixels.normalize(views, (pixels.MEAN, pixels.STD)))
    elsewhere = torch.empty(1, 3, 2, 2, dtype=torch.uint8, device="meta")
    normed = pixels.normalize(elsewhere, first)
    assert normed.device == pixels.renormalize(normed, first, second).device == elsewhere.device


@pytest.mark.parametrize("size", [(37, 61), (80, 45), (50, 50), (33, 90)], ids=str)
def test_the_shorter_side_and_the_centre_are_torchvisions(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    for side in (20, 33, 64):
        resized = pixels.resize_shorter(image, side)
        want = torchvision.resize(image, side, InterpolationMode.BICUBIC)
        np.testing.assert_array_equal(np.asarray(resized), np.asarray(want))
        for crop in ((20, 20), (19, 12), (7, 20)):
            got = pixels.center_crop(resized, crop)
            want = torchvision.center_crop(resized, list(crop))
            np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    bilinear = pixels.resize_shorter(image, 20, Image.Resampling.BILINEAR)
    want = torchvision.resize(image, 20, InterpolationMode.BILINEAR)
    np.testing.assert_array_equal(np.asarray(bilinear), np.asarray(want))


@pytest.mark.parametrize("size", [(32, 24), (80, 64)])
def test_a_limit_that_others_set_in_pillow_is_none_here(size, monkeypatch):
    config = AugmentConfig(num_local=1, global_size=size, local_size=(16, 16))
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    params = view_params(config, 0, 0, np.array([5]), np.array([[90, 70]]))

    def rendered():
        return [
            *render_batch([image], params, config),
            pixels.evaluation_view(image, 40, (36, 30))[None],
        ]

    want = rendered()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for got, wanted in zip(rendered(), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "box", [(3, 5, 20, 30), (-4, -2, 20, 30), (40, 30, 20, 30), (-3, -3, 60, 60), (90, 90, 5, 5)]
)
def test_a_box_is_the_one_that_pillow_crops(box):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    left, top, width, height = box
    want = image.crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(np.asarray(pixels.cut(image, *box)), np.asarray(want))
