"""Folders that an earlier version left (`make.py`) are resumed and read."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

import ibot
from ibot.cli.main import main
from ibot.system.jsonl import read_jsonl
from ibot.system.records import read_records

LEFT = Path(__file__).parent / "left"
SECONDS = 1_700_000_000
"""As in make.py."""


@pytest.fixture
def left(tmp_path, monkeypatch):
    """A copy of the folders, with the times of the images that git does not keep."""
    shutil.copytree(LEFT, tmp_path / "left")
    monkeypatch.chdir(tmp_path / "left")
    for folder in ("parts", "flat"):
        for i, file in enumerate(sorted(Path(folder).rglob("*.png"))):
            os.utime(file, ns=(SECONDS * 10**9, (SECONDS + i) * 10**9))


@pytest.fixture
def no_network(monkeypatch):
    ran = lambda *_: pytest.fail("the network ran")  # noqa: E731
    monkeypatch.setattr("ibot.eval.features.cache.compute", ran)


@pytest.mark.usefixtures("left")
def test_a_run_goes_on_and_ends_as_it_would_have():
    command = shlex.split(json.loads(Path("run/config.json").read_text())["command"])[1:]
    assert command[-2:] == ["--steps", "8"] and main(command[:-2]) == 0
    assert "resume" in [row["event"] for row in read_jsonl(Path("run/events.jsonl"))]
    rows = read_jsonl(Path("run/metrics.jsonl"))
    whole = json.loads(Path("whole.json").read_text())
    assert [row["step"] for row in rows] == [row["step"] for row in whole] == [2, 4, 6, 8, 10, 12]
    for row, want in zip(rows, whole, strict=True):
        for name in ("cls_loss", "patch_loss", "lr", "momentum", "teacher_temp"):
            # Other machines round otherwise.
            assert row[name] == pytest.approx(want[name], rel=1e-4), (row["step"], name)
    during = [
        record for record in read_records(Path("run/results.jsonl")) if record.step is not None
    ]
    assert [record.step for record in during if record.metric == "knn_top1"] == [0, 4, 8, 12]
    # What came later is measured from here on, and names the checkpoint with the best patches.
    assert [record.step for record in during if record.metric == "match_r1"] == [12]
    assert Path("run/checkpoints/best_dense").read_text() == "step_00000012\n"


@pytest.mark.usefixtures("left", "no_network")
@pytest.mark.parametrize(
    ("name", "settings"), [("knn", ["k=1,3"]), ("linear", ["augment=none", "epochs=2"])]
)
def test_features_and_records_are_read(name, settings):
    """The cache gives the features, and the mark of what was asked is the same as then."""
    before = [r for r in read_records(Path("run/results.jsonl")) if r.protocol == name and r.asked]
    places = {"cache": "cache", "device": "cpu"}
    records = ibot.evaluate(name, "run", "parts", settings=settings, out="new", **places)
    assert [record.asked for record in records] == [record.asked for record in before]
    for record, want in zip(records, before, strict=True):
        assert record.value == pytest.approx(want.value) and record.data == want.data
        assert (record.row, record.metric, record.weights_hash) == (
            want.row,
            want.metric,
            want.weights_hash,
        )


@pytest.mark.usefixtures("left", "no_network")
def test_a_search_finds_the_features_of_images_without_labels(capsys):
    command = ["search", "run", "--data", "flat", "--out", "found", "--cache", "cache"]
    assert main([*command, "--device", "cpu"]) == 0
    assert "6 of flat, features from the cache" in capsys.readouterr().out
