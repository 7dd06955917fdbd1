import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slides import halved, tissue, write_pyramid

from ibot.data import regions
from ibot.data.pixels import resized_crop
from ibot.data.regions import read_level, read_region
from ibot.data.tiled import tiled_picture

pytest.importorskip("tifffile", reason="extra slides")


@pytest.fixture(scope="module")
def pixels():
    return tissue(512, 384)


@pytest.fixture(scope="module")
def picture(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    return tiled_picture(write_pyramid(path, pixels))


def boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        height, width = rng.integers(1, 512), rng.integers(1, 384)
        top, left = rng.integers(0, 513 - height), rng.integers(0, 385 - width)
        yield tuple(map(int, (top, left, height, width))), rng


def test_a_region_is_the_crop_of_the_whole_picture_resized(picture, pixels):
    whole = Image.fromarray(pixels)
    for box, rng in boxes(40):
        size = tuple(max(1, int(side / rng.uniform(1, 3.9))) for side in box[2:])
        got = read_region(picture, box, size)
        if min(box[2] / size[0], box[3] / size[1]) < 4:
            np.testing.assert_array_equal(got, np.asarray(resized_crop(whole, *box, size)))
        np.testing.assert_array_equal(
            read_region(picture, box, box[2:]),
            pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]],
        )


def test_a_region_reduced_by_a_level_is_read_from_it(picture, pixels):
    coarse = Image.fromarray(halved(pixels, 4))
    for top, left, height, width in ((0, 0, 512, 384), (128, 64, 128, 256), (508, 380, 4, 4)):
        size = max(1, height // 8), max(1, width // 8)
        got = read_region(picture, (top, left, height, width), size)
        want = resized_crop(coarse, top // 4, left // 4, height // 4, width // 4, size)
        if height > 4:
            np.testing.assert_array_equal(got, np.asarray(want))
    between = read_region(picture, (3, 5, 401, 302), (100, 75)).astype(int)
    true = resized_crop(Image.fromarray(pixels), 3, 5, 401, 302, (100, 75))
    assert np.abs(between - np.asarray(true)).mean() < 3, "boxes between the pixels of a level"


def test_rows_of_tiles_give_what_all_at_once_gives(picture, monkeypatch):
    cases = [(box, (max(1, box[2] // 3), max(1, box[3] // 2))) for box, _ in boxes(20, seed=3)]
    at_once = [read_region(picture, *case) for case in cases]
    monkeypatch.setattr(regions, "AT_ONCE", 0)
    for case, want in zip(cases, at_once, strict=True):
        got = read_region(picture, *case)
        assert got.shape == want.shape and np.abs(got.astype(int) - want).max() <= 1


def test_what_covers_a_box_is_told_with_its_place(picture, pixels):
    for box, rng in boxes(30, seed=1):
        most = rng.uniform(1, 20)
        part, (top, left, height, width) = read_level(picture, box, most)
        factor = 16 if most >= 16 else 4 if most >= 4 else 1
        assert (height / len(part), width / part.shape[1]) == (factor, factor)
        assert 0 <= box[0] - top < factor and 0 <= box[1] - left < factor
        rows, columns = int(top) // factor, int(left) // factor
        level = halved(pixels, factor)
        want = level[rows : rows + len(part), columns : columns + part.shape[1]]
        np.testing.assert_array_equal(part, want)


def test_boxes_outside_are_refused(picture):
    for box in ((-1, 0, 2, 2), (0, 0, 513, 1), (0, 380, 1, 5), (0, 0, 0, 1)):
        with pytest.raises(ValueError, match="a box"):
            read_region(picture, box, (1, 1))


LARGE = """
import re, sys
import numpy as np
from ibot.data.regions import read_region
from ibot.data.tiled import tiled_picture
import tifffile, imagecodecs, PIL.Image
tile = np.full((256, 256, 3), 100, np.uint8)
tiles = (None if number % 8 else tile for number in range(79 * 79))
tifffile.imwrite(sys.argv[1], tiles, shape=(20000, 20000, 3), dtype=np.uint8, tile=(256, 256),
                 compression="jpeg", photometric="rgb", bigtiff=True)
picture = tiled_picture(sys.argv[1])
read_region(picture, (0, 0, 512, 512), (512, 512))
def peak():
    # Not ru_maxrss: that begins with what the parent process had.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")
before = peak()
for top in range(0, 19000, 1900):
    read_region(picture, (top, top, 1000, 1000), (224, 224))
window = peak() - before
small = read_region(picture, (0, 0, 20000, 3000), (200, 30))
print(window, peak() - before, small.mean())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peak memory to be read")
def test_a_picture_of_20000_pixels_a_side_takes_the_memory_of_what_is_read(tmp_path):
    made = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "a.tif")],
        capture_output=True,
        text=True,
        check=True,
    )
    window, large, mean = map(float, made.stdout.split())
    # In MiB; the whole picture takes 1,144 of them, the larger box 172. What is kept of that are
    # 20,000 rows of 30 pixels, and a row of tiles.
    assert window < 30 and large < 60
    assert mean == pytest.approx(12.5, abs=1), "every eighth tile is stored"
