"""Runs that exist: made longer, with other images, with other settings, or just the next day."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import start_ibot
from safetensors.torch import load_file

from ibot.cli.main import main
from ibot.data.scenes import write_folder
from ibot.engine.checkpoint import checkpoints_of, find_checkpoint
from ibot.engine.run import read_config
from ibot.studies import ending
from ibot.system.jsonl import read_jsonl, write_json
from ibot.system.processes import Processes

TINY = [
    "model.width=24",
    "model.depth=2",
    "model.heads=2",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "train.batch=8",
    "train.precision=float32",
    "system.workers=0",
    "system.threads=1",
    "log.tensorboard=false",
    "log.every=2",
    "evaluate.match=0",
    "augment.num_local=1",
]
SHORT = ["checkpoint.every=4 steps", "checkpoint.keep=99", "--device", "cpu", *TINY]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with photos/, 24 images and no labels, and runs/photos, at its end of 4 epochs."""
    folder = tmp_path_factory.mktemp("going_on")
    write_folder(folder / "made", train=32, val=0, seed=0, size=32)
    images = sorted((folder / "made").rglob("*.png"))
    (folder / "photos").mkdir()
    for i, image in enumerate(images[:32]):
        place = "photos" if i < 24 else "more"
        (folder / place).mkdir(exist_ok=True)
        shutil.copy(image, folder / place / f"{i:02d}.png")
    before = Path.cwd()
    os.chdir(folder)
    try:
        options = ["tiny32", "--data", "photos", "--run", "runs/photos", "--epochs", "4"]
        assert main(["pretrain", *options, *SHORT]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(begun, tmp_path, monkeypatch):
    """A copy of it, as the current folder; at their end runs measure and report nothing."""
    monkeypatch.setattr(ending, "at_the_end", lambda *given: None)
    monkeypatch.setattr(ending, "write_report", lambda *given: None)
    shutil.copytree(begun, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def pretrain(*arguments, run="runs/photos"):
    return main(["pretrain", "--run", str(run), *arguments])


def weights(run):
    found = find_checkpoint(Path(run))
    return load_file(found / "teacher.safetensors") | load_file(found / "model.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return all(torch.equal(a[name], b[name]) for name in a)


def steps_of(run="runs/photos"):
    return [row["step"] for row in read_jsonl(Path(run) / "metrics.jsonl")]


def back_to(run, step):
    """As a kill leaves a run: what was saved after `step` is not there."""
    for checkpoint in checkpoints_of(Path(run)):
        if int(checkpoint.name.removeprefix("step_")) > step:
            shutil.rmtree(checkpoint)


def test_the_next_day_the_run_alone_is_enough(here, capsys):
    assert pretrain() == 0
    assert "already at step 12: nothing to do" in capsys.readouterr().out
    back_to("runs/photos", 4)
    assert pretrain() == 0 and same("runs/photos", here / "runs" / "photos")
    assert "done: 12 steps" in capsys.readouterr().out and steps_of() == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "runs/phots"], ["no run in 'runs/phots'", "auto --data DIR --run runs/phots"]),
        ([], ["RECIPE", "ibot pretrain --run DIR"]),
        (["auto", "--data", "photos", "--extend-to", "9 epochs"], ["--run DIR"]),
        (["tiny32", "--data", "photos", "train.lists=0:0:9"], ["--extend-to"]),
    ],
)
def test_without_a_run_that_exists_the_error_says_how_to_begin(here, capsys, arguments, words):
    assert main(["pretrain", *arguments]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["photos"]


def test_a_run_made_longer_goes_on_in_one_axis_and_is_the_same_however_it_was_broken(here, capsys):
    shutil.copytree("runs/photos", "runs/broken")
    assert pretrain("--extend-to", "8 epochs") == 0
    said = capsys.readouterr().out
    assert "longer: 8 epochs = 24 steps in all, in place of 4 epochs = 12 steps" in said
    assert (
        "resumed from step 12" in said and "move to the schedules of that length by step 13" in said
    )
    assert steps_of() == list(range(2, 25, 2))
    rows = read_jsonl(Path("runs/photos/metrics.jsonl"))
    assert [row["epoch"] for row in rows[4:8]] == pytest.approx([10 / 3, 4, 14 / 3, 16 / 3])
    assert rows[6]["lr"] > 3 * rows[5]["lr"] and rows[6]["momentum"] < rows[5]["momentum"]
    # Stopped, then killed, then with the last steps before it became longer lost as well.
    assert pretrain("--extend-to", "8 epochs", "--steps", "14", run="runs/broken") == 0
    assert pretrain("--steps", "19", run="runs/broken") == 0
    back_to("runs/broken", 16)
    assert pretrain("--extend-to", "8 epochs", run="runs/broken") == 0
    assert same("runs/photos", "runs/broken")
    assert [row["lr"] for row in rows] == [
        row["lr"] for row in read_jsonl(Path("runs/broken/metrics.jsonl"))
    ]
    (event,) = [e for e in read_jsonl(Path("runs/broken/events.jsonl")) if e["event"] == "changed"]
    assert event["train.length"] == ["4 epochs", "8 epochs"]
    config = read_config(Path("runs/broken"))
    assert config.train.lengths == ((0, 12), (12, 24))
    capsys.readouterr()
    first = ["tiny32", "--data", "photos", "--run", "runs/broken", "--epochs", "4", *SHORT]
    for again in (["--run", "runs/broken", "--extend-to", "8 epochs"], first):
        assert main(["pretrain", *again]) == 0
        assert "already at step 24: nothing to do" in capsys.readouterr().out


def test_where_the_checkpoints_after_it_became_longer_are_gone_it_becomes_longer_earlier(here):
    assert pretrain("--extend-to", "8 epochs", "--steps", "14") == 0
    back_to("runs/photos", 8)
    assert pretrain() == 0
    assert read_config(Path("runs/photos")).train.lengths == ((0, 12), (8, 24))
    assert steps_of() == list(range(2, 25, 2))


@pytest.mark.parametrize(
    ("length", "words"),
    [
        ("2 epochs", ["longer than 2 epochs already", "12 steps", '--extend-to "8 epochs"']),
        ("soon", ["'soon' is no length", "'40 epochs'"]),
        ("50 percent", ["'50 percent' is no length", "'40 epochs'"]),
        ("1e400 steps", ["'1e400 steps' is no length", "'40 epochs'"]),
    ],
)
def test_a_length_that_makes_no_run_longer_is_refused(here, capsys, length, words):
    before = Path("runs/photos/config.json").read_text()
    assert pretrain("--extend-to", length) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert Path("runs/photos/config.json").read_text() == before


def add_images(
    names=("24.png", "25.png", "26.png", "27.png", "28.png", "29.png", "30.png", "31.png"),
):
    for name in names:
        shutil.copy(Path("more") / name, Path("photos") / name)


def test_added_images_are_told_and_taken_in_from_the_next_epoch_on(here, capsys):
    back_to("runs/photos", 4)
    shutil.copytree("runs/photos", "runs/broken")
    add_images()
    assert pretrain() == 0
    said = capsys.readouterr().out
    assert "24 images then, 32 now: 8 added (24.png, 25.png, 26.png, ...)" in said
    assert "From step 4 on a new epoch begins" in said and "12 of 12 steps, 4 per epoch" in said
    config = read_config(Path("runs/photos"))
    assert config.train.lists == ((0, 0, 24), (4, 2, 32)) and config.train.lengths == ((0, 12),)
    rows = read_jsonl(Path("runs/photos/metrics.jsonl"))
    assert [row["epoch"] for row in rows] == pytest.approx([2 / 3, 4 / 3, 2.5, 3, 3.5, 4])
    provenance = json.loads(Path("runs/photos/provenance.json").read_text())
    assert provenance["data"]["images"] == 32 and provenance["data_before"][0]["images"] == 24
    # Broken on the way it is the same, and is told once.
    assert pretrain("--steps", "9", run="runs/broken") == 0
    assert "8 added" in capsys.readouterr().out
    assert pretrain(run="runs/broken") == 0 and same("runs/photos", "runs/broken")
    assert "added" not in capsys.readouterr().out


def test_a_finished_run_says_that_images_were_added_and_how_to_train_on_them(here, capsys):
    add_images()
    assert pretrain() == 0
    said = capsys.readouterr().out
    assert "8 added" in said and "--run runs/photos --extend-to" in said and "nothing to do" in said
    provenance = json.loads(Path("runs/photos/provenance.json").read_text())
    assert provenance["data"]["images"] == 24 and read_config(Path("runs/photos")).train.lists == ()
    assert pretrain("--extend-to", "6 epochs") == 0
    # Two more epochs, of four steps each.
    assert "20 of 20 steps, 4 per epoch" in capsys.readouterr().out and steps_of()[-1] == 20


def test_images_that_are_gone_stop_the_run_with_the_command_that_goes_on(here, capsys):
    back_to("runs/photos", 8)
    Path("photos/00.png").rename("photos/zero.png")
    Path("photos/01.png").unlink()
    assert pretrain() == 2
    said = capsys.readouterr().err
    assert "23 now: 1 added (zero.png), 2 gone (00.png, 01.png)" in said
    assert "ibot pretrain --run runs/photos --accept-images\n" in said
    assert pretrain("--accept-images") == 0
    assert read_config(Path("runs/photos")).train.lists == ((0, 0, 24), (8, 3, 23))
    assert pretrain() == 0  # once is enough
    Path("elsewhere").mkdir()
    shutil.copy("more/30.png", "elsewhere/other.png")
    for accept in ([], ["--accept-images"]):
        assert pretrain("--data", "elsewhere", *accept) == 2
        said = capsys.readouterr().err
        assert "started on other images" in said and "--accept" not in said


@pytest.mark.parametrize("last", ["config.json", "images.txt.gz"])
def test_killed_while_it_notes_other_images_it_goes_on_with_them(here, monkeypatch, capsys, last):
    from ibot.engine import run

    back_to("runs/photos", 8)
    add_images()

    def killed_after(write, name):
        def writing(path, *rest):
            write(path, *rest)
            if last in (name, path.name):
                raise KeyboardInterrupt

        return writing

    with monkeypatch.context() as killed:
        killed.setattr(run, "write_json", killed_after(run.write_json, ""))
        killed.setattr(run, "write_names", killed_after(run.write_names, run.NAMES))
        assert pretrain() == 130
    assert pretrain() == 0, capsys.readouterr().err
    assert read_config(Path("runs/photos")).train.lists == ((0, 0, 24), (8, 3, 32))
    provenance = json.loads(Path("runs/photos/provenance.json").read_text())
    assert provenance["data"]["images"] == 32
    (Path("photos") / "24.png").unlink()
    back_to("runs/photos", 8)
    assert pretrain() == 2 and "1 gone (24.png)" in capsys.readouterr().err


def test_runs_of_before_did_not_keep_names_and_do_so_from_now_on(here, capsys):
    back_to("runs/photos", 8)
    Path("runs/photos/images.txt.gz").unlink()
    add_images()
    assert pretrain() == 2
    said = capsys.readouterr().err
    assert "24 images then, 32 now; which ones" in said and "--accept-images" in said
    for name in Path("more").iterdir():
        (Path("photos") / name.name).unlink()
    assert pretrain("--steps", "9") == 0 and Path("runs/photos/images.txt.gz").is_file()
    add_images()
    assert pretrain() == 0 and "8 added" in capsys.readouterr().out


def test_a_moved_folder_of_the_same_images_is_named_with_data(here, capsys):
    back_to("runs/photos", 8)
    Path("photos").rename("pictures")
    assert pretrain() == 2
    said = capsys.readouterr().err
    assert "no folder 'photos'" in said and "ibot pretrain --run runs/photos --data DIR" in said
    assert pretrain("--data", "pictures") == 0


@pytest.mark.parametrize(
    ("arguments", "why", "fix"),
    [
        (["optim.lr=1"], "optim.lr: 0.006 -> 1\n", "--init runs/photos"),
        (["tiny32", "train.seed=5"], "train.seed: 0 -> 5\n", "ibot pretrain --run runs/photos\n"),
        (["tiny64", "--data", "photos"], "recipe: tiny32 -> tiny64\n", "a new --run\n"),
        (["--epochs", "7"], "train.length: 4 epochs -> 7 epochs\n", '--extend-to "7 epochs"\n'),
        (["--epochs", "3"], "train.length: 4 epochs -> 3 epochs\n", '--extend-to "8 epochs"\n'),
        (["--seed", "1", "model.depth=3"], "model.depth: 2 -> 3; train.seed: 0 -> 1\n", "--run"),
    ],
)
def test_a_changed_setting_is_named_with_both_values_and_the_ways_on(
    here, capsys, arguments, why, fix
):
    before = Path("runs/photos/config.json").read_text()
    assert pretrain(*arguments) == 2
    said = capsys.readouterr().err
    assert why in said and fix in said, said
    assert Path("runs/photos/config.json").read_text() == before


def test_a_number_of_processes_or_images_that_does_not_fit_leaves_the_run_its_batch(
    here, capsys, monkeypatch
):
    for image in sorted(Path("photos").iterdir())[5:]:
        image.unlink()
    assert pretrain("--accept-images") == 2
    assert "needs 8 images at least" in capsys.readouterr().err
    shutil.copytree("more", "photos", dirs_exist_ok=True)
    monkeypatch.setattr("ibot.cli.train.launched_processes", lambda: Processes(0, 3))
    assert pretrain("--accept-images") == 2
    said = capsys.readouterr().err
    assert "cannot be shared equally" in said and "keeps its batch: start 2 or 4 processes" in said


def test_speed_and_records_may_change_and_settings_stand_anywhere(here):
    assert (
        pretrain("--quiet", "system.workers=1", "data.pixels=auto", "--steps", "4", "tiny32") == 0
    )
    assert pretrain("checkpoint.keep=2", "log.every=3", "--seed", "0", "optim.lr=0.006") == 0


def test_a_run_serves_as_a_recipe_and_that_this_is_a_new_one_is_said(here, capsys):
    assert main(["pretrain", "runs/photos", "--run", "runs/new", "--steps", "2"]) == 0
    assert "to go on with that one:  ibot pretrain --run runs/photos" in capsys.readouterr().out
    assert read_config(Path("runs/new")).train.lengths == ()


def test_what_auto_would_choose_otherwise_is_told_and_the_run_keeps_its_own(here, capsys):
    auto = ["auto", "--data", "photos", "--run", "runs/auto", "--epochs", "4"]
    options = [*auto, *(word for word in SHORT if "out_dim" not in word and "batch" not in word)]
    assert main(["pretrain", *options, "--steps", "3"]) == 0
    plain = json.loads(Path("runs/auto/config.json").read_text())
    assert plain["recipe"] == "auto"
    capsys.readouterr()
    # As if it had been chosen for other data, or by another version.
    plain["method"]["teacher_temp"] = 0.05
    write_json(Path("runs/auto/config.json"), plain)
    assert main(["pretrain", *options]) == 0
    said = capsys.readouterr().out
    assert "auto would choose otherwise today: method.teacher_temp: 0.05 -> 0.02. The run" in said
    rows = read_jsonl(Path("runs/auto/metrics.jsonl"))
    assert rows[-1]["teacher_temp"] == 0.05
    choices = [e for e in read_jsonl(Path("runs/auto/events.jsonl")) if e["event"] == "choices"]
    assert len(choices) == 1 and "teacher momentum" in " ".join(choices[0]["reasons"])


@pytest.mark.slow  # a training of its own, killed
def test_a_longer_run_that_was_killed_ends_as_the_unbroken_one(here):
    shutil.copytree("runs/photos", "runs/broken")
    longer = ["--extend-to", "60 epochs"]
    assert pretrain(*longer) == 0
    started = start_ibot("pretrain", "--run", "runs/broken", *longer, cwd=here)
    while steps_of("runs/broken")[-1] < 30:
        assert started.poll() is None, started.ended(1)
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    assert started.ended(60).returncode == -signal.SIGKILL
    assert steps_of("runs/broken")[-1] < 180
    assert pretrain(run="runs/broken") == 0 and same("runs/photos", "runs/broken")
    (event,) = [e for e in read_jsonl(Path("runs/broken/events.jsonl")) if e["event"] == "changed"]
    assert event["train.lengths"] == ["", "0:12,12:180"]
