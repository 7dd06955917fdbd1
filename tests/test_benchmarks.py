"""What benchmarks call a result."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import million, rounds
from benchmarks.evaluation import report
from benchmarks.step import table

QUIET, BUSY = [1.0, 1.02, 0.99, 1.05, 1.0], [1.0, 1.02, 0.99, 1.3, 1.0]


def test_rounds_that_differ_are_no_result():
    assert (
        rounds.spread(QUIET) == pytest.approx(0.06)
        and rounds.verdict({"a": QUIET, "b": QUIET}) == ""
    )
    assert rounds.verdict({"a": QUIET, "b": BUSY}) == "no result: rounds differ by 31 %"


def test_every_way_runs_once_before_and_once_in_each_round_in_another_order():
    calls = []
    seconds = rounds.interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, 3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_search_shows_all_rounds_and_no_ratio_of_a_busy_machine(capsys):
    report("k = 20", {"ibot": QUIET, "faiss": BUSY, "plain": [2 * value for value in QUIET]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "k = 20  faiss: 1.00 s; rounds 1 1.02 0.99 1.3 1 (spread 31 %)"
    assert lines[3].startswith(
        "k = 20  ibot / faiss: no result: rounds differ by 31 %; rounds 1 1 1 0.808 1"
    )
    assert lines[4].startswith("k = 20  ibot / plain: 0.50; rounds 0.5 0.5")


def test_the_step_table_has_no_times_of_a_busy_machine():
    row = {"case": "b", "variant": "float32", "median_seconds": 1.5, "images_per_second": 2.7}
    row |= {
        "published_over_this": 1.6,
        "spread": 0.06,
        "peak_mib": [1300.0, 1341.0],
        "tensors_mib": 800.0,
    }
    lines = table(
        [{**row, "verdict": ""}, {**row, "verdict": "no result: rounds differ by 31 %"}]
    ).splitlines()
    assert lines[2] == "| b | float32 | 1.50 | 2.7 | 1.60 | 6 % | 1300 to 1341 | 800 |"
    assert (
        lines[3]
        == "| b | float32 | no result: rounds differ by 31 % | - | - | 6 % | 1300 to 1341 | 800 |"
    )


def test_the_machine_says_threads_and_how_waiting_threads_wait(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert (
        "threads" in rounds.machine()
        and "GOMP_SPINCOUNT=10000, OMP_WAIT_POLICY=not set" in rounds.machine()
    )


@pytest.mark.slow
def test_starts_on_generated_names_are_measured_first_and_again(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    sizes = ["--images", "6000", "--folders", "20", "--workers", "2"]
    monkeypatch.setattr(sys, "argv", ["million", str(tmp_path), *sizes, "--json", str(out)])
    monkeypatch.chdir(Path(__file__).parents[1])
    million.main()
    rows = json.loads(out.read_text())["rows"]
    assert rows["1,000 names"]["images"] == 1000 and rows["second start"]["images"] == 6000
    assert len(list((tmp_path / "home").rglob("*.listing"))) == 1, "1,000 names are not worth one"
    for name in ("first start", "second start"):
        assert 0 < rows[name]["names"] <= rows[name]["first_batch"]
        assert abs(rows[name]["above"]) < 1024
