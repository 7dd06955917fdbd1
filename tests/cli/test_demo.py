"""`ibot demo`, its trainings replaced."""

from types import SimpleNamespace

import pytest

from ibot.cli.main import main
from ibot.recipes import recipe
from ibot.studies import demo
from ibot.types import RunState


def stopped_at(step):
    return lambda *given, **more: RunState(step=step)


def test_a_signal_ends_it_with_its_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "TRAIN_IMAGES", 400)
    monkeypatch.setattr(demo, "VAL_IMAGES", 20)
    monkeypatch.setattr(demo, "train", stopped_at(3))
    monkeypatch.setattr(demo, "load_backbone", lambda folder: pytest.fail("it went on"))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert "picture" not in capsys.readouterr().out


def test_a_signal_ends_the_controls(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(demo, "train", stopped_at(3))
    monkeypatch.setattr(demo, "derive", lambda config, images: SimpleNamespace(run_steps=9))
    demo.run_controls(recipe("demo"), tmp_path / "demo", ([], []), said.append)
    assert said == ["KoLeo alone: stopped at step 3 of 9, saved; the same command resumes it"]
