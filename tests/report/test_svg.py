"""Curves as SVG: well-formed, within their frame, and told in words."""

from xml.etree import ElementTree

import numpy as np
import pytest
from pages import NAMES

from ibot.report.history import Curve, Series
from ibot.report.svg import (
    BOTTOM,
    HEIGHT,
    HOVERED,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Mark,
    brief,
    chart,
    count_of,
    round_step,
    value_axis,
)

RANDOM = np.random.default_rng(0)


def drawn(*lines, end=None, marks=(), **given):
    """The parsed picture of lines of values at 0, 128, 256, ..."""
    series = [
        Series(f"line {i}", [(128.0 * at, float(value)) for at, value in enumerate(values)])
        for i, values in enumerate(lines)
    ]
    curve = Curve(**{"id": "loss", "title": "Loss", "unit": "nats", "series": series, **given})
    end = 128.0 * (max(len(values) for values in lines) - 1) if end is None else end
    return ElementTree.fromstring(chart(curve, end=end, marks=marks))


def of_class(picture, tag, name):
    return [part for part in picture.iter(tag) if name in part.get("class", "").split()]


def places(path):
    """Points [n, 2] of a path of straight lines."""
    numbers = path.get("d").replace("M", " ").replace("L", " ").replace("Z", " ").split()
    return np.array(numbers, float).reshape(-1, 2)


@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [0.04, 0.04, 0.04],
        [0.0, 1.0],
        [-5.0, 5.0, 0.0],
        RANDOM.standard_normal(700),
        1e-9 * RANDOM.random(40),
        1e12 + 1e9 * RANDOM.random(40),
        [1.0, 1.1, 0.9, 1e30],
        [0.0, 0.0, 1e30],
    ],
    ids=["one", "constant", "from zero", "signs", "noise", "tiny", "huge", "explosion", "from 0"],
)
def test_all_points_lie_within_the_frame_and_later_ones_to_the_right(values):
    picture = drawn(values)
    (line,) = of_class(picture, "path", "line")
    points = places(line)
    assert len(points) == len(values) and (np.diff(points[:, 0]) >= 0).all()
    assert points[:, 0].min() >= LEFT and points[:, 0].max() <= WIDTH - RIGHT
    assert points[:, 1].min() >= TOP - 0.1 and points[:, 1].max() <= HEIGHT - BOTTOM + 0.1
    order, rank = np.argsort(values, kind="stable"), points[:, 1]
    assert (np.diff(rank[order]) <= 0).all(), "a larger value stands higher, or as high"
    texts = [text.text for text in picture.iter("text")]
    assert len(texts) >= 3 and all(len(text) < 14 for text in texts)
    values = [text.text for text in picture.iter("text") if text.get("x") == str(LEFT - 6)]
    assert len(set(values)) == len(values) >= 2


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3.1, 3.9), (-7, 12), (0, 1e-5), (5e3, 8e6)])
@pytest.mark.parametrize("most", [3, 4, 5])
def test_ticks_are_round_rising_and_not_many(low, high, most):
    ticks = Axis(low, high, 0, 1).ticks(most)
    assert 2 <= len(ticks) <= most + 1 and low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    steps = np.diff(ticks)
    assert steps == pytest.approx(steps[0]) and steps[0] == pytest.approx(round_step(steps[0]))


def test_explosions_are_logarithmic_and_the_rest_is_not():
    lines = [Series("a", [(float(i), 10.0**i) for i in range(-1, 9)])]
    assert value_axis(Curve(id="a", title="a", unit="", series=lines)).log
    lines = [Series("a", [(float(i), 1.0 + i) for i in range(9)])]
    assert not value_axis(Curve(id="a", title="a", unit="", series=lines)).log


def test_what_is_near_its_level_looks_so():
    picture = drawn([6.931, 6.930, 6.929], level=6.9315, level_name="ln K")
    (line,) = of_class(picture, "path", "line")
    assert np.ptp(places(line)[:, 1]) < 0.05 * HEIGHT
    assert "ln K" in [text.text for text in picture.iter("text")]


def test_a_resting_pointer_is_told_values_and_intervals():
    values = [(0.0, 30.0), (128.0, 50.0)]
    series = [Series("teacher", values, [(25.5, 35.5), None])]
    curve = Curve(id="knn", title="k-NN", unit="%", series=series)
    picture = ElementTree.fromstring(chart(curve, end=128))
    told = [part.find("title").text for part in of_class(picture, "g", "at")]
    assert told == ["0 images seen\nteacher: 30 (25.5 to 35.5)", "128 images seen\nteacher: 50"]
    assert picture.find("desc").text == "teacher: from 30 to 50, between 30 and 50"
    assert picture.get("aria-label") == "k-NN, %, against images seen"


def test_many_points_have_few_places_to_rest_and_few_dots():
    picture = drawn(RANDOM.random(500), RANDOM.random(500))
    stripes = of_class(picture, "g", "at")
    assert len(stripes) <= HOVERED + 1
    ends = [(float(r.get("x")), float(r.get("width"))) for r in picture.iter("rect")]
    assert ends[0][0] == LEFT and sum(ends[-1]) == pytest.approx(WIDTH - RIGHT, abs=0.2)
    assert len(of_class(picture, "circle", "dot")) == 2


def test_intervals_are_a_band_around_their_line():
    points = [(128.0 * i, 10.0 + i) for i in range(5)]
    series = [Series("a", points, [(value - 2, value + 3) for _, value in points])]
    curve = Curve(id="a", title="a", unit="", series=series)
    picture = ElementTree.fromstring(chart(curve, end=512))
    (band,), (line,) = (of_class(picture, "path", name) for name in ("spread", "line"))
    band, line = places(band), places(line)
    low, high = band[:5, 1], band[5:][::-1, 1]
    assert (high < line[:, 1]).all() and (line[:, 1] < low).all()


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_text(name):
    series = [Series(name, [(0.0, 1.0), (128.0, 2.0)])]
    curve = Curve(id=name, title=name, unit=name, series=series, level=1.5, level_name=name)
    picture = ElementTree.fromstring(chart(curve, end=128, marks=[Mark(10, name)]))
    tags = {part.tag for part in picture.iter()}
    assert tags <= {"svg", "desc", "title", "g", "path", "rect", "text", "circle"}


def test_marks_stand_where_they_were_said():
    picture = drawn([1.0, 2.0], end=1280, marks=[Mark(640, "step 5: low rank")])
    (flag,), (mark,) = of_class(picture, "g", "flag"), of_class(picture, "path", "mark")
    assert flag.find("title").text == "step 5: low rank"
    place = float(mark.get("d")[1:].split()[0])
    assert place == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (44.33, "44.3"), (30.0, "30"), (123456, "123,456"), (0.00012, "0.00012")],
)
def test_numbers_are_brief(value, text):
    assert brief(value) == text


@pytest.mark.parametrize(
    ("images", "text"), [(0, "0"), (640, "640"), (20_000, "20k"), (1.5e6, "1.5M"), (2e9, "2G")]
)
def test_images_are_counted_in_thousands(images, text):
    assert count_of(images) == text
