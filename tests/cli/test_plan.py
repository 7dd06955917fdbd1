import re
from types import SimpleNamespace

import pytest
import torch

from ibot import apply, recipe
from ibot.cli.main import main
from ibot.data.scenes import write_folder
from ibot.studies.plan import Plan, in_words
from ibot.system.jsonl import read_jsonl

SMALL = [
    *("model.width=24", "model.depth=1", "model.heads=2", "head.hidden_dim=32"),
    *("head.bottleneck_dim=16", "head.out_dim=32", "head.patch_out_dim=32"),
]


def test_a_plan_names_time_memory_and_disk_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", train=64, val=0, seed=0, size=32)
    settings = ["train.batch=32", "--epochs", "3", *SMALL]
    assert main(["plan", "tiny32", "--data", "data", *settings]) == 0
    out = capsys.readouterr().out
    assert "6 of 6 steps" in out and "a micro-batch is 32" in out and "trained parameters" in out
    assert float(re.search(r"time +([\d.]+) s a step", out)[1]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_plan_names_the_load_beside_which_it_was_made(tmp_path, capsys, monkeypatch):
    write_folder(tmp_path / "data", train=24, val=0, seed=0, size=32)
    command = ["plan", "tiny32", "--data", str(tmp_path / "data"), *SMALL]
    for others, said in ((0.52, True), (0.02, False)):
        monkeypatch.setattr("ibot.system.load.Load.read", lambda self, others=others: others)
        assert main(command) == 0
        out = capsys.readouterr().out
        assert ("load   other processes take 52% of " in out) == said
        assert ("alone it would be about " in out) == said


def test_a_plan_for_several_processes_starts_none_and_shares_the_batch(tmp_path, capsys):
    write_folder(tmp_path / "data", train=32, val=0, seed=0, size=32)
    command = ["plan", "tiny32", "--data", str(tmp_path / "data"), "model.depth=1"]
    assert main([*command, "train.batch=32", "--processes", "8", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "batch 32 = 8 processes x 4" in out and "a micro-batch is 4 in each process" in out
    assert "8 processes would share the cores of this machine" in out
    assert main([*command, "train.batch=20", "--processes", "8"]) == 2
    assert "cannot be shared equally" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "seconds"), [("cuda", 2.0), ("cpu", 16.0)])
def test_gpus_share_the_time_of_a_step_and_processes_of_a_cpu_do_not(device, seconds):
    config = apply(recipe("tiny32"), ["train.batch=64"])
    stages = SimpleNamespace(total=1.0)
    plan = Plan(
        config=config,
        device=torch.device(device),
        trial=SimpleNamespace(images=4),
        run_steps=1,
        stages=stages,
        needed=1.0,
        memory=1.0,
        free=1.0,
        processes=8,
    )
    assert (plan.step_seconds, plan.micro_batch) == (seconds, 8)


def test_a_plan_beyond_the_memory_names_the_setting_that_helps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ibot.studies.plan.device_memory", lambda device: 0.01)
    write_folder(tmp_path / "data", train=64, val=0, seed=0, size=32)
    assert (
        main(
            ["plan", "tiny32", "--data", str(tmp_path / "data"), "train.batch=32", "--epochs", "3"]
        )
        == 0
    )
    note = re.search(
        r"note   more than the 0 GiB here: train.accumulate=(\d+)", capsys.readouterr().out
    )
    assert note and int(note[1]) > 1


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (0.008, "less than a minute"),
        (0.016, "about 1 minute"),
        (1.4, "about 84 minutes"),
        (10, "about 10 hours"),
    ],
)
def test_times_are_said_in_units_that_suit_them(hours, said):
    assert in_words(hours) == said


def choices(run):
    """The reasons that a run keeps."""
    rows = read_jsonl(run / "events.jsonl")
    return next(row["reasons"] for row in rows if row["event"] == "choices")


def test_auto_explains_its_choices_and_trains(tmp_path, capsys):
    write_folder(tmp_path / "data", train=200, val=0, seed=0, size=32)
    run = tmp_path / "run"
    command = [
        "pretrain",
        "auto",
        "--data",
        str(tmp_path / "data"),
        "--run",
        str(run),
        "--steps",
        "2",
    ]
    assert main([*command, "system.workers=0"]) == 0
    out = capsys.readouterr().out
    assert out.count("auto   ") >= 7 and "too few images: 200" in out
    assert main([*command, "system.workers=0", "--quiet"]) == 0  # the same choice, so the same run
    assert '"recipe": "auto"' in (run / "config.json").read_text()
    reasons = [f"auto   {reason}" for reason in choices(run)]
    assert len(reasons) >= 7 and all(reason in out for reason in reasons)
    assert all(reason in (run / "log.txt").read_text() for reason in reasons)
