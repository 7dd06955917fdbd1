"""Which files make an image of many channels, by a pattern of their names."""

import pytest

from ibot.data.channels.groups import group
from ibot.errors import DataError


def test_files_are_joined_by_what_they_have_in_common():
    files = ["b_2.jp2", "a_1.jp2", "a_10.jp2", "a_2.jp2", "b_10.jp2", "b_1.jp2"]
    found = group(files, "{name}_{channel}.jp2")
    assert found.names == ("a", "b")
    assert found.channels == ("1", "2", "10"), "numbers by their value"
    assert found.members.tolist() == [[1, 3, 2], [5, 0, 4]]
    assert found.others == 0


def test_names_of_bands_come_in_their_order():
    files = [f"x_{band}.tif" for band in ("B11", "B8A", "B02", "B8", "B12")]
    assert group(files, "{name}_{channel}.tif").channels == ("B02", "B8", "B8A", "B11", "B12")


def test_the_last_separator_parts_name_and_channel():
    found = group(["AA41_s1_1.jp2", "AA41_s1_2.jp2"], "{name}_{channel}.jp2")
    assert found.names == ("AA41_s1",) and found.channels == ("1", "2")


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("{channel}/{name}.tif", "wet/{c}/tile.tif"),
        ("{name}/{channel}.tif", "wet/tile/{c}.tif"),
        ("{name}_{channel}_10m.jp2", "wet/tile_{c}_10m.jp2"),
        ("{channel}-{name}.png", "wet/{c}-tile.png"),
    ],
)
def test_patterns_may_hold_folders_and_words(pattern, file):
    found = group([file.format(c=c) for c in ("B1", "B2")], pattern)
    assert found.names == ("wet/tile",) and found.channels == ("B1", "B2")


def test_what_is_missing_is_marked_and_strays_are_counted():
    files = ["a_1.tif", "a_2.tif", "b_1.tif", "c_1.tif", "c_2.tif", "a_thumb.tif", "readme.tif"]
    found = group(files, "{name}_{channel}.tif")
    assert found.channels == ("1", "2")
    assert found.members.tolist() == [[0, 1], [2, -1], [3, 4]]
    assert found.others == 2, "a thumbnail of one image, and a name that does not fit"


@pytest.mark.parametrize("pattern", ["{name}.tif", "{name}_{channel}_{channel}.tif", "x.tif"])
def test_a_pattern_without_both_words_is_refused(pattern):
    with pytest.raises(DataError, match="once each"):
        group(["a_1.tif"], pattern)


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(DataError, match="no file fits"):
        group(["a.tif"], "{name}_{channel}.png")


def test_names_that_look_like_numbers_are_names():
    assert group(["a_m².tif", "a_b2.tif"], "{name}_{channel}.tif").channels == ("b2", "m²")
