"""Rows of metrics.jsonl, also while a training writes them."""

import json

import pytest
from told_runs import row, write_run

from ibot.report.history import LOGGED, training_curves
from ibot.report.metrics import METRICS, read_metrics


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    file = tmp_path / METRICS
    lines = [
        json.dumps(row(10)),
        '{"step": 15, "ima',
        "null",
        "[1]",
        "7",
        "\x00",
        json.dumps(row(20)),
    ]
    file.write_bytes("\n".join(lines).encode() + b'\n\xff\xfe\n{"images_seen": true}\n{"step": 25')
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / METRICS).write_text('{"step": 1, "images_seen": 1' + 400 * "0" + "}\n")
    assert not read_metrics(tmp_path / "huge", 1, LOGGED).images
    metrics = read_metrics(tmp_path, 128, LOGGED)
    assert list(metrics.images) == [640, 1280] and metrics.last == row(20)
    with file.open("a") as torn:
        torn.write(', "images_seen": 3200, "cls_loss": "6", "lr": NaN}\n')
    metrics = read_metrics(tmp_path, 128, LOGGED)
    assert list(metrics.images) == [640, 1280, 3200]
    loss = training_curves(metrics)[0].series
    assert [image for image, _ in loss[0].points] == [640, 1280]


def test_a_file_that_grows_is_read_on_and_one_that_was_written_anew_from_its_start(tmp_path):
    rows = [row(10 * i, cls_loss=float(i)) for i in range(1, 8)]
    file = write_run(tmp_path, rows=rows[:3]) / METRICS
    for count in (4, 6):
        whole = "".join(json.dumps(one) + "\n" for one in rows[:count])
        # Torn anywhere, as a reader may find it.
        for end in range(file.stat().st_size, len(whole) + 1, 97):
            file.write_text(whole[:end])
            lines = whole[:end].count("\n")
            assert list(read_metrics(tmp_path, 128, LOGGED).columns["cls_loss"]) == [
                float(i + 1) for i in range(lines)
            ]
        file.write_text(whole)
        assert len(read_metrics(tmp_path, 128, LOGGED).images) == count
    later = [row(10, cls_loss=9.0), *rows[4:]]
    file.write_text("".join(json.dumps(one) + "\n" for one in later))
    assert list(read_metrics(tmp_path, 128, LOGGED).columns["cls_loss"]) == [9.0, 5.0, 6.0, 7.0]
    file.unlink()
    assert not read_metrics(tmp_path, 128, LOGGED).images
    file.write_text(json.dumps(row(10)) + "\n")
    assert read_metrics(tmp_path, 128, LOGGED).last == row(10)


def test_rows_of_steps_alone_have_their_images_from_the_batch(tmp_path):
    write_run(tmp_path, rows=[{"step": 3, "cls_loss": 1.0}])
    assert list(read_metrics(tmp_path, 16, LOGGED).images) == [48]


def test_the_time_of_training_is_that_of_its_steps(tmp_path):
    rows = [row(10, images_per_second=64.0), row(30, images_per_second=256.0)]
    write_run(tmp_path, rows=rows)
    assert read_metrics(tmp_path, 128, LOGGED).seconds() == pytest.approx(640 / 64 + 1280 / 256)
