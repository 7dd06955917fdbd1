"""Borders of one colour, drawn around pictures whose inside is known."""

import numpy as np
import pytest

from ibot.data.borders import without_border


def noise(size, seed=0, kind=np.uint8, channels=3):
    rng = np.random.default_rng(seed)
    if kind is np.uint8:
        return rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    return rng.normal(3.0, 0.02, (*size, channels)).astype(np.float32)


def framed(inside, widths, colour):
    """With borders (top, bottom, left, right) of a colour."""
    top, bottom, left, right = widths
    height, width, channels = inside.shape
    whole = np.empty((top + height + bottom, left + width + right, channels), inside.dtype)
    whole[:] = colour
    whole[top : top + height, left : left + width] = inside
    return whole


@pytest.mark.parametrize("widths", [(5, 0, 0, 0), (0, 7, 0, 3), (4, 9, 6, 2), (0, 0, 0, 0)])
@pytest.mark.parametrize("colour", [0, 255, (20, 90, 200)])
def test_a_border_of_one_colour_is_cut_off(widths, colour):
    inside = noise((40, 50))
    np.testing.assert_array_equal(without_border(framed(inside, widths, colour)), inside)


def test_a_deep_border_is_cut_off_whole():
    inside = noise((400, 300))
    for widths in ((130, 70, 0, 0), (1, 64, 3, 127)):
        np.testing.assert_array_equal(without_border(framed(inside, widths, 255)), inside)


def test_borders_of_several_colours_that_meet_in_corners_are_cut_off():
    inside = noise((40, 50))
    black = framed(inside, (0, 0, 4, 5), 0)
    np.testing.assert_array_equal(without_border(framed(black, (6, 3, 0, 0), 255)), inside)


def test_levels_that_lie_close_are_of_one_colour_and_others_are_not():
    inside = noise((40, 50))
    whole = framed(inside, (8, 0, 0, 0), 100)
    whole[:8] += noise((8, 50), 1) % 13  # at most 12 from the darkest
    whole[0, 0] = 100
    np.testing.assert_array_equal(without_border(whole), inside)
    whole[3, 20, 1] = 113
    assert len(without_border(whole)) == 45


@pytest.mark.parametrize(("rows", "left"), [(20, 20), (19, 39)])
def test_never_more_than_half_of_a_side_is_cut_off(rows, left):
    whole = framed(noise((rows, 50)), (39 - rows, 0, 0, 0) if rows == 19 else (20, 0, 0, 0), 0)
    assert len(without_border(whole)) == left


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (30, 20)])
def test_a_picture_of_one_colour_stays(size):
    for kind in (np.uint8, np.float32):
        whole = np.full((*size, 3), 7, kind)
        assert without_border(whole).shape == whole.shape


def test_borders_of_float_levels_are_measured_by_the_range_of_each_channel():
    """Channels whose levels lie close together would be all border by the range of bytes."""
    inside = noise((30, 40), kind=np.float32, channels=5)
    inside[..., 2] *= 1000
    whole = framed(inside, (3, 4, 5, 6), inside.min(axis=(0, 1)))
    np.testing.assert_array_equal(without_border(whole), inside)
    assert without_border(inside).shape == inside.shape
