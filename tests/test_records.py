"""Records of results, of this version and of those before."""

import json
from dataclasses import asdict

import pytest

from ibot.system.jsonl import append_jsonl
from ibot.system.records import data_name, read_records
from ibot.types import ResultRecord

OLD = {
    "protocol": "semi",
    "metric": "semi_linear_top1",
    "value": 48.5,
    "settings": {"size": [32, 32], "k": 20},
    "num_train": 90,
    "num_val": 10,
    "weights": "runs/a",
    "seconds": 2.0,
    "extra": {
        "row": "1% seed 0, linear, n4m0",
        "chosen": "rate 0.1, epoch 3",
        "notes": ["1%: 9 images keep their label"],
        "step": 7,
        "balanced": 40.0,
    },
    "interval": [40.0, 50.0],
    "mode": "clean",
    "of_a_later_version": 1,
}


def test_rows_of_before_are_read_with_what_stood_in_extra(tmp_path):
    file = tmp_path / "results.jsonl"
    append_jsonl(file, OLD, {**OLD, "extra": {}, "interval": None})
    first, second = read_records(file)
    assert (first.row, first.chosen) == ("1% seed 0, linear, n4m0", "rate 0.1, epoch 3")
    assert first.notes == ("1%: 9 images keep their label",) and first.step == 7
    assert first.extra == {"balanced": 40.0} and first.interval == (40.0, 50.0)
    assert (second.row, second.notes, second.step, second.interval) == ("", (), None, None)


def test_a_record_that_is_written_is_read_again(tmp_path):
    record = ResultRecord.from_row(OLD)
    append_jsonl(tmp_path / "results.jsonl", asdict(record))
    assert read_records(tmp_path / "results.jsonl") == [record]


@pytest.mark.parametrize(
    "row", [7, [], {"metric": "x"}, {**OLD, "value": "high"}, {**OLD, "extra": 3}]
)
def test_rows_of_other_programs_are_passed_over(tmp_path, row):
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(OLD)}\n")
    assert [record.value for record in read_records(tmp_path / "results.jsonl")] == [48.5]


@pytest.mark.parametrize(
    ("root", "name"),
    [("sets/birds", "birds"), ("sets/birds/val", "birds"), ("davis/JPEGImages/480p", "davis")],
)
def test_a_part_is_called_as_its_set(root, name):
    assert data_name(root) == name
