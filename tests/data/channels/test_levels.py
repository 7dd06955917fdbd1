"""The rule by which values of each type become levels."""

import numpy as np
import pytest

from ibot.data.channels.levels import filled, names_of, to_levels
from ibot.data.decode import UnreadableImage


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int8", "int16", "int32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_whole_types_fill_0_to_1_by_their_range(kind, order):
    info = np.iinfo(kind)
    middle = (info.min + info.max) // 2
    values = np.array([info.min, middle, info.max], np.dtype(kind).newbyteorder(order))
    levels = to_levels(values)
    assert levels.dtype == np.float32 and levels[0] == 0 and levels[2] == 1
    assert levels[1] == pytest.approx((middle - info.min) / (info.max - info.min), abs=1e-7)


def test_order_and_steps_of_16_bits_survive():
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(np.rint(to_levels(values) * 65535), values)
    assert (np.diff(to_levels(values)) > 0).all()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
def test_floats_stay_as_they_are_and_are_not_clipped(kind):
    values = np.array([-3.5, 0, 0.25, 1, 1000], kind)
    assert np.array_equal(to_levels(values), values.astype(np.float32))


def test_bool_is_0_and_1():
    assert to_levels(np.array([False, True])).tolist() == [0, 1]


def test_declared_bits_are_the_range():
    values = np.array([0, 2048, 4095], np.uint16)
    assert to_levels(values, bits=12) == pytest.approx([0, 2048 / 4095, 1])
    signed = np.array([-2048, 0, 2047], np.int16)
    assert to_levels(signed, bits=12) == pytest.approx([0, 2048 / 4095, 1])


def test_inverted_levels_are_turned_round():
    values = np.array([0, 10, 255], np.uint8)
    assert to_levels(values, inverted=True) == pytest.approx([1, 245 / 255, 0])
    signed = np.array([-128, 127], np.int8)
    assert to_levels(signed, inverted=True).tolist() == [1, 0]


def test_what_is_no_number_becomes_nan_and_the_rest_stays():
    values = np.array([np.nan, np.inf, -np.inf, 1e300, 2.0])
    assert np.isnan(to_levels(values)).tolist() == [True, True, True, True, False]
    assert np.isinf(values[1]), "the values of the caller are not changed"


def test_no_data_is_compared_in_the_type_of_the_file():
    floats = np.array([0.1, -3.4028234663852886e38, 5], np.float32)
    levels = to_levels(floats, no_data=(0.1, -3.4028234663852886e38))
    assert np.isnan(levels).tolist() == [True, True, False]
    whole = np.array([0, 7, 65535], np.uint16)
    assert np.isnan(to_levels(whole, no_data=(65535, -9999))).tolist() == [False, False, True]
    # By the stored value, not by the level.
    assert np.isnan(to_levels(whole, inverted=True, no_data=(0,))).tolist() == [True, False, False]


@pytest.mark.parametrize("kind", ["int64", "uint64", "complex64", "U3"])
def test_other_types_are_refused(kind):
    with pytest.raises(UnreadableImage, match="values of type"):
        to_levels(np.zeros(3, kind))


def test_filled_takes_the_mean_of_the_channel():
    levels = np.array([[[np.nan, 1.0], [0.5, np.nan]]], np.float32)
    assert filled(levels, (0.25, 0.75)).tolist() == [[[0.25, 1.0], [0.5, 0.75]]]
    whole = np.ones((2, 2, 1), np.float32)
    assert filled(whole, (0.5,)) is whole


def test_names_are_numbers_from_1():
    assert names_of(3) == ("1", "2", "3")
