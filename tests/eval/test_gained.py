"""What a network gained over what has learnt nothing, in one line."""

from dataclasses import replace

import pytest

from ibot.eval.gained import beside, gained, sign
from ibot.types import ResultRecord


def record(value, baseline="", interval=None, row="k = 10"):
    return ResultRecord(
        protocol="knn",
        metric="knn_top1",
        value=value,
        settings={},
        row=row,
        baseline=baseline,
        interval=interval,
    )


def test_the_line_says_what_is_above_within_and_below():
    own = [record(53.3, interval=(44.0, 62.0)), record(50.0, row="k = 20")]
    others = [
        record(40.0, "random", (31.0, 49.0)),
        record(41.0, "random", row="k = 20"),
        record(52.5, "pixels", (43.0, 61.5)),
        record(52.0, "pixels", row="k = 20"),
        record(70.0, "colours", (61.0, 78.0)),
        record(71.0, "colours", row="k = 20"),
    ]
    assert gained(own, others) == (
        "k = 10: 53.3 (44.0 to 62.0), random start 40.0, pixels 52.5, colours 70.0: "
        "13.3 above random start, 16.7 below colours; not told apart from pixels (43.0 to 61.5)"
    )
    assert gained(own, others, "k = 20").startswith("k = 20: 50.0, random start 41.0, pixels 52.0")
    assert gained(own, others, "k = 7") == gained(own, others)
    assert {name: one.value for name, one in beside(own, others, 1).items()} == {
        "random": 41.0,
        "pixels": 52.0,
        "colours": 71.0,
    }


def test_the_ends_of_an_interval_belong_to_it():
    for value, words in ((49.0, "not told"), (49.1, "above"), (31.0, "not told"), (30.9, "below")):
        assert words in gained([record(value)], [record(40.0, "random", (31.0, 49.0))])


def test_the_intervals_of_both_count():
    other = record(40.0, "random", (31.0, 49.0))
    assert sign(record(52.0), other) == 1 and sign(record(28.0), other) == -1
    assert sign(record(52.0, interval=(43.0, 61.0)), other) == 0
    assert sign(record(53.0, interval=(44.0, 62.0)), other) == 1


def test_without_intervals_the_difference_alone_counts():
    assert gained([record(2.0)], [record(1.0, "random")]).endswith("1.0 above random start")
    assert gained([record(2.0)], [record(2.0, "random")]).endswith(
        "not told apart from random start"
    )


def test_rows_that_are_named_after_what_was_chosen_are_matched_by_their_place():
    own, other = record(1.0, row="lambda 0.1/n"), record(2.0, "random", row="lambda 1/n")
    assert beside([own], [other], 0) == {"random": other}
    more = record(3.0, "random", row="lambda 0.1/n")
    assert beside([own], [other, more], 0) == {"random": more}


def test_several_that_are_not_told_apart_stand_together():
    others = [record(50.0, "random", (40.0, 60.0)), record(52.0, "pixels", (42.0, 62.0))]
    line = gained([record(53.0)], others)
    assert line.endswith(
        "not told apart from random start (40.0 to 60.0) and pixels (42.0 to 62.0)"
    )


def test_nothing_is_said_without_baselines():
    assert gained([record(1.0)], []) == "" == gained([], [])


@pytest.mark.parametrize(
    ("count", "own", "other", "told"),
    [
        (1, 100, 0, 0),
        (5, 100, 0, 0),
        (6, 100, 0, 1),
        (20, 100, 75, 0),
        (20, 70, 100, -1),
        (1000, 100, 99.5, 0),
        (1000, 100, 99.3, 1),
    ],
)
def test_few_images_that_are_all_right_tell_nothing(count, own, other, told):
    """Whatever bootstrapped intervals say, which have no width there."""
    sides = (own, other)
    first, second = (replace(record(v, interval=(v, v)), num_val=count) for v in sides)
    assert sign(first, second) == told
