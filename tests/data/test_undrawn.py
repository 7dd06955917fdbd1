"""Pictures packed for the device: as they are, or smaller where no view can tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import AugmentConfig, Config
from ibot.data.params import view_params
from ibot.data.pixels_batch import render_batch
from ibot.data.pixels_device import render
from ibot.data.sets.scan import scan
from ibot.data.undrawn import GAP, Together, most_bytes, packed, reductions

CONFIG = Config(
    augment=AugmentConfig(
        num_local=2,
        global_size=(32, 32),
        local_size=(16, 16),
        jitter=0.0,
        gray=0.0,
        blur=(0.0, 0.0, 0.0),
        solarize=(0.0, 0.0, 0.0),
    )
)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Small and large pictures with structure down to some pixels."""
    rng = np.random.default_rng(5)
    made = []
    for height, width in ((50, 60), (601, 799), (1200, 900), (330, 1000)):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
        made.append(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)))
    return made


def drawn(images, seed=0):
    sizes = np.array([image.shape[:2] for image in images])
    return view_params(CONFIG.augment, seed, 0, np.arange(len(images)), sizes)


def test_large_pictures_are_made_smaller_only_as_far_as_every_view_shrinks_them_on(images):
    for seed in range(5):
        params = drawn(images, seed)
        factors = reductions(params, CONFIG)
        sides = np.array([32, 32, 16, 16])[:, None]
        for row, factor in enumerate(factors):
            left = params.box[row, :, 2:] / factor / sides
            assert factor == 1 or left.min() >= GAP
            assert left.min() < 2 * GAP, "and as far as that"
        assert factors[0] == 1 and factors.max() > 2


def test_views_of_pictures_made_smaller_are_nearly_those_of_the_whole_ones(images):
    for seed in range(5):
        params = drawn(images, seed)
        pixels, sizes, factors = packed(images, params, CONFIG)
        assert pixels.shape == (sizes.prod(axis=1).sum(), 3) and factors.max() > 2
        assert len(pixels) < sum(image.size // 3 for image in images) / 2
        views = render(pixels, sizes, params, CONFIG.augment, torch.device("cpu"), reduced=factors)
        want = render_batch(images, params, CONFIG.augment)
        for got, exact in zip((*views[0], *views[1]), want, strict=True):
            apart = np.abs(got.permute(0, 2, 3, 1).numpy().astype(int) - exact)
            assert apart.mean() < 1.0 and np.abs(apart.mean(axis=(1, 2, 3))).max() < 1.5


def test_pictures_that_are_no_bytes_travel_whole(images):
    levels = [image[..., :2].astype(np.float32) / 255 for image in images]
    pixels, sizes, factors = packed(levels, drawn(levels), CONFIG)
    assert pixels.dtype == torch.float32 and (factors == 1).all()
    assert [tuple(size) for size in sizes] == [image.shape[:2] for image in levels]


def test_the_room_for_a_batch_is_counted_of_what_travels(images, tmp_path):
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    source, most = scan(tmp_path), max(image.size for image in images)
    counted = most_bytes(source, 4, CONFIG)
    for seed in range(5):
        assert packed(images, drawn(images, seed), CONFIG)[0].numel() <= counted < 4 * most
    only = tmp_path / "only"
    only.mkdir()
    (only / "broken.png").write_bytes(b"none")
    assert most_bytes(scan(only), 4, CONFIG) == 0
    tiny = replace(CONFIG, augment=replace(CONFIG.augment, global_size=(512, 512)))
    assert most_bytes(source, 4, tiny) > counted, "nothing can be made smaller"


def test_pictures_travel_from_where_they_were_read(images):
    small = [image[:40, :50] for image in images]
    want = packed(small, drawn(small), CONFIG)[0]
    for most, stays in ((3 * 2000, False), (4 * 2000, True)):
        together = Together(most)
        read = []
        for number, image in enumerate(small):
            place = together.room(60, 10)  # what is given up
            place = together.room(*image.shape[:2]) if number % 2 else None
            if place is not None:
                place[...] = image
            read.append(image if place is None else place)
            together.take(read[-1])
        pixels, sizes, _ = packed(read, drawn(small), CONFIG, together)
        assert torch.equal(pixels, want) and sizes.tolist() == [[40, 50]] * 4
        assert np.shares_memory(pixels.numpy(), read[1]) is stays
    levels = [image.astype(np.float32) for image in small]
    together = Together(4 * 2000)
    for level in levels:
        together.take(level)
    assert packed(levels, drawn(levels), CONFIG, together)[0].dtype == torch.float32
