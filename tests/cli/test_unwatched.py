"""Commands whose watchers leave: the work goes on, and what nobody saw is in the run's log."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.cli.main import main

SMALL = [
    "model.width=24",
    "model.depth=1",
    "model.heads=2",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "train.batch=8",
    "log.every=2",
    "augment.num_local=2",
    "checkpoint.every=10 steps",
]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two classes that any network tells apart."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, level in (("dark", 40), ("light", 200)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = (level + rng.normal(0, 20, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def pretrain(data, run, *more):
    return [
        "pretrain",
        "tiny32",
        "--data",
        str(data),
        "--run",
        str(run),
        "--device",
        "cpu",
        *SMALL,
        *more,
    ]


def lost_stream(kind):
    if kind == "full":
        return Path("/dev/full").open("w")
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.fixture(scope="module")
def run(labelled, tmp_path_factory):
    """A run of which nobody could read a word."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", lost_stream("pipe"))
        assert main(pretrain(labelled, folder, "--steps", "12", "system.workers=0")) == 0
    return folder


def test_training_goes_on_without_its_reader_and_logs_what_it_would_have_shown(run):
    lines = (run / "log.txt").read_text().splitlines()
    assert "recipe tiny32" in lines[0] and sum("step 12/12" in line for line in lines) == 1
    assert (run / "checkpoints" / "last").read_text() == "step_00000012\n"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[-2:]] == ["end", "closing"]


@pytest.mark.parametrize("kind", ["pipe", "full"])
def test_an_evaluation_goes_on_and_keeps_its_records(
    run, labelled, tmp_path, monkeypatch, capsys, kind
):
    monkeypatch.setattr(sys, "stdout", lost_stream(kind))
    command = [
        "eval",
        "knn",
        str(run),
        "--data",
        str(labelled),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 0
    assert (tmp_path / "results.jsonl").read_text().count("knn_top1") >= 1
    assert ("No space left" in capsys.readouterr().err) == (kind == "full")


LISTS = [
    "recipes list",
    "recipes show tiny32",
    "recipes diff tiny32 vit_s16",
    "recipes why optim.lr",
    "results {run}",
    "plan tiny32 --data {data} --device cpu {small}",
    "doctor",
    "weights inspect {run}",
    "ablate",
    "ablate heads --data {data} --list",
]


@pytest.mark.parametrize(("kind", "code"), [("pipe", 141), ("full", 4)])
@pytest.mark.parametrize("command", LISTS)
def test_what_only_prints_has_failed_where_its_text_is_lost(
    run, labelled, monkeypatch, capsys, command, kind, code
):
    monkeypatch.setattr(sys, "stdout", lost_stream(kind))
    assert main(command.format(run=run, data=labelled, small=" ".join(SMALL[:-1])).split()) == code
    assert ("No space left" in capsys.readouterr().err) == (kind == "full")


def test_a_run_folder_that_was_removed_ends_the_run_with_code_4(
    labelled, tmp_path, monkeypatch, capsys
):
    from ibot.engine import loop

    plain, folder = loop.note_bad_files, tmp_path / "run"

    def remove(trainer, batches):
        plain(trainer, batches)
        if trainer.state.step == 3:
            shutil.rmtree(folder)

    monkeypatch.setattr(loop, "note_bad_files", remove)
    assert main(pretrain(labelled, folder, "system.workers=0")) == 4
    err = capsys.readouterr().err
    assert f"'{folder}' can no longer be written" in err and "No such file" in err
    assert not folder.exists(), "a folder with checkpoints alone would be no run"


@pytest.mark.slow
def test_training_survives_its_terminal_workers_included(labelled, tmp_path):
    """The terminal is closed under the bar: the kernel sends SIGHUP, and writes fail with EIO."""
    folder, (ours, theirs) = tmp_path / "run", pty.openpty()
    command = pretrain(labelled, folder, "system.workers=1", "train.length=40 steps")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, termios, sys; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "from ibot.cli.main import main; sys.exit(main(sys.argv[1:]))",
            *command,
        ],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b"cls" not in shown:  # the bar stands
        shown += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert "step 40/40" in (folder / "log.txt").read_text()
    assert (folder / "checkpoints" / "last").read_text() == "step_00000040\n"
