from dataclasses import replace

import numpy as np
import pytest
from slides import tissue, write_pyramid

from ibot.config.reading import Windows
from ibot.config.schema import AugmentConfig
from ibot.data.needed import in_parts, read_part
from ibot.data.params import view_params
from ibot.data.pixels import render
from ibot.data.sets.scan import scan
from ibot.data.sets.windows import windowed

pytest.importorskip("tifffile", reason="extra slides")
AUGMENT = AugmentConfig(num_local=3, global_size=(48, 48), local_size=(24, 24), jitter=0.0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "a.tif", tissue(640, 512))
    write_pyramid(folder / "b.tif", tissue(300, 700, seed=1))
    return scan(folder)


def views(images, index, augment, epoch=3):
    """As the loader makes them."""
    part = read_part(images, index, augment, 5, epoch)
    params = view_params(augment, 5, epoch, np.array([index]), np.array([part.size]))
    return part, render(part.pixels, in_parts(params, [part]), 0, augment)


def views_of_the_whole(images, index, augment, epoch=3):
    pixels = images.read(index)
    sizes = np.array([pixels.shape[:2]])
    params = view_params(augment, 5, epoch, np.array([index]), sizes)
    return render(pixels, params, 0, augment)


def test_views_of_a_window_are_those_of_all_its_pixels(slides):
    images = windowed(slides, Windows(100, 40, at="random")).for_epoch(3, 5)
    read = []
    for index in range(40):
        part, found = views(images, index, AUGMENT)
        for got, want in zip(found, views_of_the_whole(images, index, AUGMENT), strict=True):
            np.testing.assert_array_equal(got, want)
        read.append(part.pixels.shape[0] * part.pixels.shape[1] / 100**2)
    assert min(read) < 0.8 and max(read) <= 1, "only what the views show is read"


def test_of_large_windows_a_reduced_level_is_read(slides):
    augment = replace(AUGMENT, num_local=1, local_scale=(0.4, 0.6), global_scale=(0.4, 1.0))
    images = windowed(slides, Windows(300, 20, at="random")).for_epoch(3, 5)
    reduced = 0
    for index in range(20):
        part, found = views(images, index, augment)
        true = views_of_the_whole(images, index, augment)
        reduced += part.pixels.shape[0] < part.place[2]
        # Boxes lie on pixels of the level: half of one of those off at most.
        off = [np.abs(a.astype(int) - b).mean() for a, b in zip(found, true, strict=True)]
        assert max(off) < 8
    assert reduced >= 10


def test_sets_without_regions_are_read_whole(slides):
    part = read_part(slides, 0, AUGMENT, 0, 0)
    np.testing.assert_array_equal(part.pixels, slides.read(0))
    params = view_params(AUGMENT, 0, 0, np.array([0]), np.array([part.size]))
    assert in_parts(params, [part]) is params


def test_boxes_stay_inside_of_what_was_read(slides):
    augment = replace(AUGMENT, global_size=(8, 8), local_size=(4, 4))
    images = windowed(slides, Windows(290, 60, at="random")).for_epoch(0, 0)
    for index in range(60):
        part = read_part(images, index, augment, 0, 0)
        params = view_params(augment, 0, 0, np.array([index]), np.array([part.size]))
        top, left, height, width = in_parts(params, [part]).box[0].T
        assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()
        assert (top + height <= part.pixels.shape[0]).all()
        assert (left + width <= part.pixels.shape[1]).all()
