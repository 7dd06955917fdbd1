import json

import numpy as np
import pytest

from ibot.data.annotated.bitmaps import bitmap, encoded, run_lengths, segmentation_area

# pycocotools 2.0.11 under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

reference = pytest.importorskip("pycocotools.mask")


def random_polygons(random, size):
    """Up to three polygons that may leave the image and cross themselves."""
    height, width = size
    return [
        (random.random((random.integers(3, 9), 2)) * [1.3 * width, 1.3 * height] - 0.15 * width)
        .round(int(random.integers(0, 3)))
        .ravel()
        .tolist()
        for _ in range(random.integers(1, 4))
    ]


def test_polygons_cover_the_pixels_that_cocos_own_code_gives_them():
    random = np.random.default_rng(0)
    for _ in range(100):
        size = tuple(random.integers(1, 70, 2).tolist())
        polygons = random_polygons(random, size)
        wanted = reference.decode(reference.merge(reference.frPyObjects(polygons, *size)))
        got = bitmap(polygons, size)
        assert got.dtype == np.uint8 and np.array_equal(got, wanted), (size, polygons)


def test_run_lengths_as_numbers_and_as_text_give_the_mask_and_it_gives_them():
    random = np.random.default_rng(1)
    for case in range(50):
        mask = (random.random(random.integers(1, 30, 2)) < random.random()).astype(np.uint8)
        mask = np.kron(mask, np.ones(random.integers(1, 40, 2), np.uint8)) if case % 2 else mask
        run = reference.encode(np.asfortranarray(mask))
        text = run["counts"].decode()
        assert np.array_equal(bitmap({**run, "counts": text}, mask.shape), mask)
        assert np.array_equal(bitmap(run, mask.shape), mask)
        numbers = run_lengths(text).tolist()
        assert np.array_equal(bitmap({"size": mask.shape, "counts": numbers}, mask.shape), mask)
        (again,) = encoded(mask[None] > 0)
        assert again == {"size": list(mask.shape), "counts": text}
        assert json.loads(json.dumps(again)) == again
        assert segmentation_area(run) == mask.sum()


def test_masks_of_no_object_are_no_run_lengths():
    assert encoded(np.zeros((0, 5, 6), bool)) == []
    assert np.array_equal(bitmap({"size": [2, 3], "counts": [6]}, (2, 3)), np.zeros((2, 3)))
    assert np.array_equal(bitmap({"size": [2, 3], "counts": [0, 6]}, (2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize("counts", [[5], [3, 4], [-1, 7], "1", "16"])
def test_run_lengths_of_another_size_are_refused(counts):
    with pytest.raises(ValueError, match="2 x 3"):
        bitmap({"size": [2, 3], "counts": counts}, (2, 3))


@pytest.mark.parametrize("text", ["", "o", "\x01", "ooooooooooooooo0", "\x7f0"])
def test_other_text_is_no_run_lengths(text):
    with pytest.raises(ValueError, match="run length"):
        run_lengths(text)


def test_the_area_of_a_polygon_is_what_it_encloses():
    triangle, square = [0, 0, 4, 0, 0, 3], [10, 10, 10, 12, 12, 12, 12, 10]
    assert segmentation_area([triangle]) == 6
    assert segmentation_area([triangle, square]) == 10
