"""Numbers of objects in masks, and what is refused as one."""

import numpy as np
import pytest
from PIL import Image

from ibot.data.annotated.frames import open_videos
from ibot.data.annotated.object_masks import (
    davis_palette,
    open_objects,
    read_numbers,
    write_numbers,
)
from ibot.errors import DataError

PALETTE = [0, 0, 0, 255, 0, 0, 0, 0, 255]
LEVELS = np.array([[0, 1, 1], [2, 255, 0]], np.uint8)
BINARY = np.where(LEVELS == 1, 255, 0).astype(np.uint8)


@pytest.fixture
def place(tmp_path):
    """A video of two frames of 3 x 2 pixels; `save` replaces the first mask."""

    class Place:
        mask = tmp_path / "mask.png"

        @staticmethod
        def save(pixels, **kind):
            image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
            image.save(Place.mask, format=kind.get("format", "PNG"))

        @staticmethod
        def objects(year="auto"):
            frames = open_videos(str(tmp_path))
            return open_objects(frames, frames.videos[0], year)

        @staticmethod
        def refused(words, year="auto", fix=""):
            with pytest.raises(DataError, match=words) as caught:
                Place.objects(year)
            assert "\n" not in caught.value.what and fix in caught.value.fix

    for i in range(2):
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / f"{i}.jpg")
    return Place


@pytest.mark.parametrize(
    ("pixels", "year", "numbers", "read_as"),
    [
        (LEVELS, "auto", (1, 2), "2017"),
        (LEVELS, "2017", (1, 2), "2017"),
        (LEVELS, "2016", (1,), "2016"),
        (BINARY, "auto", (1,), "2016"),
        (BINARY, "2016", (1,), "2016"),
        (np.full((2, 3), 255, np.uint8), "auto", (1,), "2016"),
        (7 * (LEVELS == 1).astype(np.uint8), "auto", (7,), "2017"),
    ],
)
def test_each_number_is_an_object_or_all_are_one(place, pixels, year, numbers, read_as):
    place.save(pixels)
    found = place.objects(year)
    assert found.numbers == numbers and found.year == read_as and found.palette is None
    inside = (pixels == 255) if (pixels == 255).any() and 1 not in pixels else (pixels % 255 > 0)
    assert np.array_equal(found.first > 0, inside)
    assert np.array_equal(found.read(place.mask), found.first)


def test_bits_and_palettes_are_read_as_numbers_and_written_with_the_palette(place, tmp_path):
    place.save(Image.fromarray(LEVELS == 1))
    assert place.objects().numbers == (1,)
    image = Image.fromarray(np.where(LEVELS == 255, 0, LEVELS))
    image.putpalette(PALETTE)
    place.save(image)
    found = place.objects()
    assert found.numbers == (1, 2) and found.palette[:9] == tuple(PALETTE)
    write_numbers(tmp_path / "written.png", found.first, found.palette)
    numbers, palette = read_numbers(tmp_path / "written.png")
    assert np.array_equal(numbers, found.first) and palette[:9] == found.palette[:9]
    write_numbers(tmp_path / "written.png", found.first)
    assert Image.open(tmp_path / "written.png").convert("RGB").getpixel((1, 0)) == (128, 0, 0)


def test_the_palette_of_davis_spreads_the_bits_of_a_number():
    colours = np.array(davis_palette()).reshape(256, 3)
    for number in range(256):
        want, rest = [0, 0, 0], number
        for j in range(8):
            for band in range(3):
                want[band] |= ((rest >> band) & 1) << (7 - j)
            rest >>= 3
        assert colours[number].tolist() == want
    assert colours[1:4].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]


def test_what_is_no_mask_is_refused_in_one_line(place, tmp_path):
    place.save(np.zeros((2, 3), np.uint8))
    place.refused("first mask of .* holds no object", fix="another frame")
    place.save(BINARY)
    place.refused("holds no object", "2017", fix="year=2016")
    place.save(np.stack(3 * [BINARY], axis=-1))
    place.refused("colours instead of numbers", fix="0 for the background")
    place.save(Image.fromarray(np.full((2, 3), 300, np.uint16)))
    place.refused("holds the number 300")
    place.save(BINARY.repeat(2, axis=0))
    place.refused("is 3 x 4 pixels, its frame 3 x 2", fix="nearest")
    place.mask.write_bytes(b"\x89PNG\r\n\x1a\n")
    place.refused("cannot be read")
    place.save(BINARY)
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "1.jpg")
    place.refused("frames of .* have different sizes", fix="folder of its own")
    (tmp_path / "1.jpg").write_bytes(b"no image")
    place.refused("frame .*1.jpg' cannot be read", fix="replace it")


def test_blurred_edges_are_no_objects(tmp_path):
    levels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    Image.fromarray(levels).save(tmp_path / "mask.png")
    Image.fromarray(levels).save(tmp_path / "0.jpg")
    frames = open_videos(str(tmp_path))
    with pytest.raises(DataError, match="200 different numbers"):
        open_objects(frames, frames.videos[0])
