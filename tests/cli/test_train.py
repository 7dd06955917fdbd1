"""The parts of `ibot pretrain` that need no run."""

from dataclasses import replace

import pytest

from ibot.cli.main import build_parser, main
from ibot.cli.train import asked_by
from ibot.config.override import apply, to_plain
from ibot.data.scenes import write_folder
from ibot.recipes import recipe
from ibot.recipes.fitting import for_fewer_than_a_batch
from ibot.studies.settings import Asked, began_with_batch, default_folder, prepare
from ibot.system.jsonl import write_json
from ibot.system.processes import Processes


@pytest.mark.parametrize(
    "name, folder", [("tiny32", "bd7f8452"), ("one_gpu", "b2804565"), ("vit_s16", "119dd3b5")]
)
def test_settings_that_came_later_do_not_rename_the_folders_of_older_runs(name, folder):
    """The names are those of version 0.1.0 before it had `model.act` and its like; of `tiny32`, of
    its settings since 2026-12-01.
    """
    config = apply(recipe(name), ["data.path=photos"])
    assert str(default_folder(config)) == f"runs/{name}-{folder}"
    for setting in ("model.act=relu", "mask.views=first", "data.max_pixels=200000000"):
        assert default_folder(apply(config, [setting])) != default_folder(config)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 images."""
    folder = tmp_path_factory.mktemp("photos")
    write_folder(folder, train=24, val=0, seed=0, size=32)
    return folder


@pytest.mark.parametrize("command", ["pretrain", "plan"])
def test_a_batch_larger_than_the_data_is_refused_before_anything_is_said_or_made(
    command, photos, tmp_path, capsys
):
    run = tmp_path / "run"
    asked = [command, "tiny32", "--data", str(photos), "--run", str(run), "train.batch=64"]
    assert main(asked) == 2
    said = capsys.readouterr()
    assert (
        "larger than the data set of 24" in said.err
        and "train.batch=16" in said.err
        and said.out == ""
    )
    assert not run.exists()


def test_a_named_recipe_gets_a_batch_that_few_images_fill(photos):
    """And is left as it is where they fill its own, but for a word where it is a large part."""

    def found(count, *settings):
        config = apply(recipe("tiny32"), [f"data.path={photos}", *settings])
        given = [setting.partition("=")[0] for setting in settings]
        return for_fewer_than_a_batch(config, count, 1, given), config

    (fitted, notes), config = found(24)
    assert fitted.train.batch == 8 and notes == [
        "train.batch=8 in place of 64: the set has 24 images"
    ]
    assert fitted == replace(config, train=replace(config.train, batch=8))
    (same, notes), config = found(200)
    assert same == config and notes == [
        "a batch of 64 is a large part of 200 images, 3 steps an epoch: train.batch=16 suits so few"
    ]
    for count in (1, 512, 5000):
        (same, notes), config = found(count)
        assert same == config and not notes
    prepared = prepare(Asked("tiny32", (f"data.path={photos}",)))
    assert prepared.config.train.batch == 8 and "the set has 24 images" in prepared.notes[0]


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_said_or_made(
    photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("ibot.cli.train.launched_processes", lambda: Processes(0, 3))
    run = tmp_path / "run"
    assert (
        main(["pretrain", "tiny32", "--data", str(photos), "--run", str(run), "train.batch=8"]) == 2
    )
    said = capsys.readouterr()
    assert "cannot be shared equally" in said.err and "3 processes" in said.err and said.out == ""
    assert not run.exists()


@pytest.mark.parametrize(
    "setting", ["train.bacth=4", "bacth=4", "train.batch=four", "train.seed=-1"]
)
def test_mistakes_in_settings_are_told_before_the_choices_of_auto(setting, photos, capsys):
    assert main(["pretrain", "auto", "--data", str(photos), setting]) == 2
    said = capsys.readouterr()
    assert setting.partition("=")[0] in said.err and said.out == ""


def test_auto_takes_the_length_and_the_batch_that_were_asked_for(photos, capsys):
    options = ["auto", "train.batch=12", "--data", str(photos), "--epochs", "20"]
    asked = asked_by(build_parser().parse_args(["pretrain", *options]))
    config = prepare(asked, say=print).config
    said = capsys.readouterr().out
    assert (
        "20 epochs, as asked" in said
        and "batch 12, as asked" in said
        and "in a run of 40 steps" in said
    )
    assert config.train.batch == 12 and config.method.momentum == 0.9


def test_a_misspelt_auto_is_recognised(capsys):
    assert main(["pretrain", "aut", "--data", "x"]) == 2
    said = capsys.readouterr().err
    assert "the recipes are auto, demo, " in said and "did you mean auto?" in said


def test_adapt_fits_few_images_unless_a_run_began_otherwise(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("ibot.engine.start.with_weights", lambda config, keys: config)
    run = tmp_path / "run"
    options = build_parser().parse_args(
        ["plan", "adapt", "--data", str(photos), "--init", "weights", "--run", str(run)]
    )
    prepared = prepare(asked_by(options))
    config, images = prepared.config, len(prepared.source)
    assert config.train.batch == 8 and "train.batch=8 in place of 256" in prepared.notes[0]
    assert not began_with_batch(run, config, images)
    run.mkdir()
    write_json(run / "config.json", to_plain(config))
    assert began_with_batch(run, config, images)
