"""Numbers of a run over its images: what is kept of much, levels and intervals."""

import math

import numpy as np
import pytest
from told_runs import knn, row, write_run

from ibot.report.history import (
    LOGGED,
    POINTS,
    evaluation_curves,
    interval_of,
    thinned,
    training_curves,
    wilson,
)
from ibot.report.metrics import read_metrics


def by_id(curves):
    return {curve.id: curve for curve in curves}


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 501, 1234, 20_000])
def test_few_points_are_kept_of_many_and_the_extremes_and_ends_among_them(count):
    random = np.random.default_rng(count)
    images, values = np.arange(count) * 128.0, random.standard_normal(count)
    values[random.integers(0, count, 3) if count else []] += 50
    kept = thinned(images, values, times=2)
    whole = [(image, 2 * value) for image, value in zip(images, values, strict=True)]
    assert len(kept) <= POINTS and set(kept) <= set(whole) and kept == sorted(kept)
    assert (len(kept) == count) == (count <= POINTS)
    if count:
        assert (kept[0], kept[-1]) == (whole[0], whole[-1])
        for pick in (min, max):
            assert pick(kept, key=lambda point: point[1]) == pick(whole, key=lambda p: p[1])


def test_values_that_are_no_numbers_are_left_out():
    assert thinned([1, 2, 3, 4], [math.nan, 5.0, math.inf, 7.0]) == [(2, 5.0), (4, 7.0)]


def test_rows_that_a_resumed_run_wrote_again_replace_the_earlier_ones(tmp_path):
    rows = [row(10), row(20), row(30, cls_loss=1.0), row(20, cls_loss=3.0), row(40, cls_loss=2.0)]
    write_run(tmp_path, rows=rows)
    (loss, _) = by_id(training_curves(read_metrics(tmp_path, 128, LOGGED)))["loss"].series
    assert loss.points == [(640, row(10)["cls_loss"]), (1280, 3.0), (2560, 2.0)]


def test_a_level_that_class_tokens_and_patches_do_not_share_is_left_out(tmp_path):
    write_run(tmp_path / "same")
    write_run(tmp_path / "two", rows=[row(10, ln_k_patch=3.0)])
    curves = by_id(training_curves(read_metrics(tmp_path / "same", 128, LOGGED)))
    assert curves["loss"].level == row(1)["ln_k"] and curves["prototypes"].level == 1024
    curves = by_id(training_curves(read_metrics(tmp_path / "two", 128, LOGGED)))
    assert curves["loss"].level is None and curves["prototypes"].level is None


def test_lines_of_zeros_are_left_out_and_curves_without_a_line(tmp_path):
    write_run(tmp_path, rows=[row(s, patch_loss_masked=0.0, koleo_loss=0.0) for s in (10, 20)])
    curves = by_id(training_curves(read_metrics(tmp_path, 128, LOGGED)))
    assert [line.name for line in curves["loss"].series] == ["class token"]
    assert "koleo" not in curves


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (336, 1500)])
def test_wilson_ends_lie_where_the_share_is_1_96_deviations_away(hits, count):
    share = hits / count
    for end in wilson(share, count):
        end /= 100
        variance = end * (1 - end) / count
        assert (share - end) ** 2 == pytest.approx(1.959964**2 * variance, abs=1e-12)


def test_intervals_are_the_record_s_own_or_of_k_nn_alone():
    assert interval_of(knn(0, 50.0, interval=(45.0, 55.0))) == (45.0, 55.0)
    low, high = interval_of(knn(0, 50.0))
    assert low < 50 < high and high - low == pytest.approx(19.2, abs=0.1)
    assert interval_of(knn(0, 50.0, metric="match_r1")) is None
    assert interval_of(knn(0, 50.0, interval=(math.nan, 1.0))) is None


def test_evaluations_on_the_way_are_curves_with_intervals_and_chance():
    records = [
        knn(0, 30.0),
        knn(20, 45.0),
        knn(20, 50.0),
        knn(0, 9.0, metric="match_r1", extra={"chance": 12.0}),
    ]
    curves = by_id(evaluation_curves(records, 128))
    assert curves["knn_top1"].series[0].points == [(0, 30.0), (2560, 50.0)]
    assert curves["knn_top1"].series[0].spread[1] == interval_of(knn(20, 50.0))
    assert (curves["match_r1"].level, curves["match_r1"].level_name) == (12.0, "chance")
