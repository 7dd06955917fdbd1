"""`ibot demo`, its trainings replaced or very short."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from ibot.cli.main import main
from ibot.config.override import apply
from ibot.recipes import recipe
from ibot.studies import demo, demo_patches
from ibot.types import RunState


@pytest.fixture
def few(monkeypatch):
    """Few images, and steps of a small network."""
    small = ["model.width=32", "model.depth=1", "model.heads=2", "head.hidden_dim=32"]
    short = [
        "train.length=2 steps",
        "evaluate.match=0",
        "system.workers=0",
        "log.tensorboard=false",
    ]
    monkeypatch.setattr(demo, "recipe", lambda name: apply(recipe(name), [*small, *short]))
    monkeypatch.setattr(demo, "TRAIN_IMAGES", 160)
    monkeypatch.setattr(demo, "VAL_IMAGES", 40)
    monkeypatch.setattr(demo_patches, "BANK", 8)
    monkeypatch.setattr(demo_patches, "QUERIES", 40)


def stopped_at(step):
    return lambda *given, **more: RunState(step=step)


def test_it_compares_draws_and_keeps_its_figures(few, tmp_path, monkeypatch, capsys):
    controls = {"KoLeo alone": demo.CONTROLS["KoLeo alone"]}
    monkeypatch.setattr(demo, "CONTROLS", controls)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--controls"]) == 0
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["seconds"] > 0
    named = {"trained", "random", "random_whitened", "raw_pixels", "colours", "colours_whitened"}
    assert set(summary["knn"]) == named and set(summary["controls"]) == set(controls)
    assert set(summary["patches"]) == {"random", "trained", "raw_pixels"}
    said = capsys.readouterr().out
    assert f"pre-trained     {summary['knn']['trained']:7.1f}" in said
    assert f"KoLeo alone     {summary['controls']['KoLeo alone']:7.1f}" in said
    iou = summary["patches"]["trained"]["fish_iou"]
    assert f"pre-trained     {iou:10.1f}" in said
    with Image.open(tmp_path / "demo" / "pictures" / "training.png") as picture:
        assert min(picture.size) > 900


def test_a_signal_ends_it_with_its_training(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "train", stopped_at(1))
    monkeypatch.setattr(demo, "load_backbone", lambda folder: pytest.fail("it went on"))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert "picture" not in capsys.readouterr().out


def test_a_signal_ends_the_controls(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(demo, "train", stopped_at(3))
    monkeypatch.setattr(demo, "derive", lambda config, images: SimpleNamespace(run_steps=9))
    found = demo.run_controls(recipe("demo"), tmp_path / "demo", ([], []), said.append)
    assert found == {}
    assert said == ["KoLeo alone: stopped at step 3 of 9, saved; the same command resumes it"]
