"""The benchmark of GPUs works before there is one: in miniature, on the CPU."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import step_gpu


def rows_of(monkeypatch, out, *arguments):
    command = ["step_gpu", "--device", "cpu", "--smoke", "--out", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    step_gpu.main()
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def test_rows_come_one_by_one_and_say_what_ran(tmp_path, monkeypatch, capsys):
    rows = rows_of(
        monkeypatch,
        tmp_path / "rows.jsonl",
        *("--models", "vit_s16", "--variants", "reference", "published", "all, blocks"),
    )
    assert not [row["error"] for row in rows if "error" in row]
    assert [row["variant"] for row in rows] == ["reference", "published", "all, blocks"]
    assert all(row["seconds"] > 0 and row["share"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1 and "plain forms alone" in rows[0]["kernels"]
    assert "compiled blocks (torch.compile)" in rows[2]["kernels"]
    assert "images/s" in capsys.readouterr().out


def test_no_row_is_begun_when_the_time_is_over(tmp_path, monkeypatch, capsys):
    rows = rows_of(monkeypatch, tmp_path / "rows.jsonl", "--models", "vit_s16", "--minutes", "0")
    assert not rows and "0 minutes are over; not measured: reference" in capsys.readouterr().out


def test_what_fails_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    def out_of_memory(self, batch, values):
        raise RuntimeError("out of memory\nin detail")

    monkeypatch.setattr(step_gpu.PublishedStep, "step", out_of_memory)
    rows = rows_of(
        monkeypatch,
        tmp_path / "rows.jsonl",
        *("--models", "vit_s16", "--variants", "published", "reference"),
    )
    assert rows[0]["error"] == "out of memory" and rows[1]["seconds"] > 0


@pytest.mark.slow
def test_all_variants_of_all_models_run(tmp_path, monkeypatch):
    rows = rows_of(monkeypatch, tmp_path / "rows.jsonl")
    assert not [row["error"] for row in rows if "error" in row]
    assert len(rows) == len(step_gpu.BATCHES) * len(step_gpu.VARIANTS)
