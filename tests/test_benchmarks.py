"""What benchmarks call a result."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import million, rounds
from benchmarks.evaluation import report
from benchmarks.plan import Case
from benchmarks.report import PAGE, RESULTS, normal, page, records
from benchmarks.step import kind_of, parted
from benchmarks.trainings import rate

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


def test_a_variant_says_which_fast_paths_run():
    assert parted("float32") == ("float32", "auto", ())
    assert parted("bfloat16 reference") == ("bfloat16", "reference", ())
    assert parted("bfloat16 without losses") == ("bfloat16", "auto", ("losses",))
    assert kind_of("published") == "float32" and kind_of("bfloat16 reference") == "bfloat16"


def test_the_cores_that_others_took_are_told_for_every_round():
    others = []
    rounds.interleaved({"a": lambda: None}, 4, others)
    assert len(others) == 4 and all(cores >= 0 for cores in others)


def test_a_machine_without_git_leaves_the_commit_out(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert rounds.commit() == ""


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


def record(folder, **row):
    """A step's record of one row."""
    row = {"case": "b", "variant": "float32", "seconds": 1.5, "images_per_second": 2.7, **row}
    row = {"ratio": 1.6, "ratios": [1.5, 1.6, 1.7], "spread": 0.06, "verdict": "", **row}
    row = {"share": 0.8, "product_gflops": 150.0, "peaks_mib": [1300.0, 1341.0], **row}
    whole = {"benchmark": "step", "command": "python -m benchmarks.step", "commit": "1a2b3c4"}
    whole |= {"machine": "a machine", "when": "2026-12-01", "rows": [{**row, "tensors_mib": 800.0}]}
    (folder / f"step-{len(list(folder.iterdir()))}.json").write_text(json.dumps(whole))


def test_the_page_of_records_says_where_each_table_is_from_and_that_no_gpu_was_measured(tmp_path):
    record(tmp_path)
    record(tmp_path, verdict="no result: rounds differ by 31 %")
    text = page(tmp_path)
    assert "`python -m benchmarks.step` a machine; commit 1a2b3c4, 2026-12-01." in text
    assert (
        "| b | float32 | 1.5 | 2.7 | 1.60 | 1.50 1.60 1.70 | 6% | 80% of 150 | 1300 to 1341" in text
    )
    assert "| b | float32 | no result: rounds differ by 31 % | - | - |" in text
    assert "There is no figure of a GPU on this page" in text
    row = {"model": "vit_s16", "images_per_second": 1234.5, "when": "2027-01-01", "device": "H200"}
    (tmp_path / "step_gpu.jsonl").write_text(f"{json.dumps(row)}\n")
    text = page(tmp_path)
    assert "There is no figure of a GPU" not in text and "| vit_s16 | 1,234 | H200 |" in text


def test_forecasts_are_compared_with_what_was_measured_in_the_same_round(tmp_path):
    case = Case(name="tiny32", kind="bfloat16", data=tmp_path)
    case.row = {"formula_seconds": 0.2, "probe_seconds": 0.36}
    case.row |= {"formula_mib": 99.0, "peak_mib": 100.0, "memory_ratio": 0.99}
    # Another program ran in the second round, beside both.
    case.planned, case.trained, case.others = [0.4, 0.9, 0.38], [0.4, 1.0, 0.4], [0.0, 1.0, 0.0]
    rounds.write_record(tmp_path / "plan.json", "plan", [case.record()])
    row = "| tiny32 | bfloat16 | 64 | 0.4 | 0.4 | 0.95 | 1.00 0.90 0.95 | 150% | 0.90 | 0.50 |"
    assert f"{row} 99 | 100 | 0.99 |" in page(tmp_path)


def test_rows_that_are_appended_say_how_they_were_made(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["losses", "--dims", "8192"])
    for seconds in (1.0, 2.0):
        rounds.append_row(tmp_path / "losses.jsonl", "losses", {"case": "K", "seconds": seconds})
    (known,) = records(tmp_path)["losses"]
    assert [row["seconds"] for row in known["rows"]] == [1.0, 2.0]
    text = page(tmp_path)
    assert "`python -m benchmarks.losses --dims 8192`" in text and "By an earlier" not in text


def test_rows_of_before_are_read_by_the_names_of_today():
    old = {
        "median_seconds": 2.0,
        "published_over_this": 1.5,
        "seconds": [1.9, 2.0],
        "peak_mib": 9.0,
    }
    assert normal(old) == {"seconds": 2.0, "ratio": 1.5, "rounds": [1.9, 2.0], "peaks_mib": [9.0]}


def test_the_page_in_the_documentation_is_what_the_records_give():
    assert PAGE.read_text() == page(RESULTS), "python -m benchmarks.report"


def test_the_rate_of_a_training_is_that_of_all_rows_but_the_first(tmp_path):
    rows = [(10, 1.0), (30, 20.0), (40, 5.0)]  # 20 images in 1 s, then 10 in 2 s
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"images_seen": seen, "images_per_second": speed}) + "\n"
            for seen, speed in rows
        )
    )
    assert rate(tmp_path) == pytest.approx(30 / 3)
