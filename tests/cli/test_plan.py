import json
import re
import shlex
from types import SimpleNamespace

import pytest
import torch

from ibot import apply, recipe
from ibot.cli.main import main
from ibot.config.override import to_plain
from ibot.data.scenes import write_folder
from ibot.engine.random_steps import StepSize
from ibot.studies.plan import Plan, in_words
from ibot.studies.stored import Stored
from ibot.system.jsonl import read_jsonl


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Trials of few steps, however the machine is."""
    for name in ("SECONDS", "WARM_SECONDS"):
        monkeypatch.setattr(f"ibot.engine.trial.{name}", 0.0)


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


def test_one_process_of_several_is_tried_with_its_share_of_the_cores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ibot.system.machine.usable_cores", lambda: 8)
    threads, seen, plain = torch.get_num_threads(), [], torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n) or plain(n))
    write_folder(tmp_path / "data", train=32, val=0, seed=0, size=32)
    command = ["plan", "tiny32", "--data", str(tmp_path / "data"), *SMALL, "train.batch=32"]
    assert main([*command, "--processes", "4", "--device", "cpu"]) == 0
    assert seen == [2, threads], "and as before afterwards"
    assert "4 processes would share the cores of this machine, 2 threads each" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(("device", "memory"), [("cuda", 1.0), ("cpu", 8.0)])
def test_processes_work_at_once_and_those_of_a_cpu_share_its_memory(device, memory):
    config = apply(recipe("tiny32"), ["train.batch=64"])
    plan = Plan(
        config=config,
        device=torch.device(device),
        trial=SimpleNamespace(size=StepSize(4), stages=SimpleNamespace(total=1.0)),
        run_steps=1,
        needed=1.0,
        memory=1.0,
        free=1.0,
        stored=Stored(4, 0),
        processes=8,
    )
    assert (plan.step_seconds, plan.micro_batch, plan.together) == (2.0, 8, memory)


ELSEWHERE = ["plan", "vit_s16", "--device", "h200", "--images", "1281167"]


def test_a_plan_for_elsewhere_needs_no_data(capsys):
    assert main([*ELSEWHERE, "--devices", "8", "--nodes", "2", "--price", "3"]) == 0
    out = capsys.readouterr().out
    for words in (
        "batch 1024 = 16 devices x 64",
        "2 machines with 8 x H200 SXM",
        "124 GFLOP an image",
        "an estimate that nothing here has measured",
        "hidden behind the backward pass",
        " at 3 an hour",
        "29,280,768 trained parameters",
    ):
        assert words in out, words


def test_a_plan_of_machines_says_how_many_devices_it_takes_each_to_have(capsys):
    note = "note   one device in each machine: --devices N for more"
    for more, said in ((["--nodes", "2"], True), (["--nodes", "2", "--devices", "1"], False)):
        assert main([*ELSEWHERE, *more]) == 0
        assert (note in capsys.readouterr().out) == said


def test_a_plan_for_elsewhere_of_a_run_that_exists_takes_its_settings(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "job"
    run.mkdir()
    config = apply(recipe("vit_s16"), ["train.batch=96", "data.path=gone"])
    (run / "config.json").write_text(json.dumps(to_plain(config)))
    (run / "provenance.json").write_text(json.dumps({"data": {"images": 9600}}))
    command = ["plan", "--run", "job", "--device", "h100", "--devices"]
    assert main([*command, "8", "--nodes", "2"]) == 0  # neither recipe nor images
    out = capsys.readouterr().out
    assert "9,600 images" in out and "80,000 steps" in out and "batch 96 = 16 devices x 6" in out
    assert main([*command, "8", "--images", "1281167"]) == 0
    out = capsys.readouterr().out
    assert "as if the run were begun with 1,281,167 images; it has 9,600" in out
    assert "13,345 per epoch" in out
    assert main([*command, "5"]) == 2
    assert "the run keeps its batch: start 4 or 6 processes" in capsys.readouterr().err
    assert main([*command, "8", "model.depth=3"]) == 2
    assert "belongs to a run with other settings" in capsys.readouterr().err
    assert main([*command, "8", "--fit", "12h"]) == 2
    assert "the run in 'job' has its own" in capsys.readouterr().err


def test_a_plan_for_elsewhere_as_json_has_plain_numbers(capsys):
    assert main([*ELSEWHERE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], found["micro_batch"], found["share_is"]) == (
        29_280_768,
        1024,
        "estimated",
    )
    assert found["hours"] == pytest.approx(found["steps"] * found["step_seconds"] / 3600)
    assert found["memory_gib"]["weights"] == pytest.approx(29_280_768 * 4 / 2**30)


def test_time_that_is_given_is_spent_and_the_command_can_be_given(capsys, tmp_path):
    command = ["plan", "one_gpu", "--device", "h200", "--images", "1281167", "--fit", "12h"]
    assert main([*command, "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = next(i for i, line in enumerate(lines) if line.startswith("chosen"))
    assert lines[chosen].split()[1] == "ViT-S" and "network" in lines[chosen - 1]
    words = shlex.split(lines[-1].removeprefix("next"))
    assert words[:5] == ["ibot", "pretrain", "one_gpu", "--data", "DIR"]
    assert "train.seed=3" in words
    folder = tmp_path / "data"
    write_folder(folder, train=260, val=0, seed=0, size=32)
    words[words.index("DIR")] = str(folder)
    assert main(["plan", *words[2:], "--device", "h200"]) == 0, "settings that work together"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vit_s16", "--device", "h300", "--images", "9"], "unknown device 'h300'"),
        (["vit_s16", "--device", "h200"], "how many images?"),
        (["--device", "h200", "--images", "9"], "name a recipe"),
        (["--device", "h200", "--images", "9", "--run", "none"], "no run in 'none' yet"),
        (
            ["vit_s16", "--device", "h200", "--images", "99999", "--devices", "3"],
            "train.batch=1023",
        ),
        (["vit_s16", "--fit", "soon"], "write 12h, 90min or 2d"),
        (
            ["vit_s16", "--device", "v100", "--images", "99999", "train.precision=bfloat16"],
            "V100 32 GB has no fast products in bfloat16",
        ),
    ],
)
def test_what_cannot_be_reckoned_is_refused(words, said, capsys):
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err


def test_auto_chooses_for_the_device_that_is_named(capsys):
    command = ["plan", "auto", "--images", "1281167", "--device"]
    assert main([*command, "b200", "--devices", "8"]) == 0
    out = capsys.readouterr().out
    assert "nobody has seen the images: reckoned as photographs" in out and "ViT-B" in out
    assert main([*command, "l4"]) == 0
    assert "ViT-S: 1281167 images, 22 GiB per GPU" in capsys.readouterr().out


def test_this_device_is_measured_by_steps_of_the_very_network(capsys, monkeypatch):
    monkeypatch.setattr("ibot.studies.probing.SIDE", 64)
    monkeypatch.setattr("ibot.studies.probing.COPIED", 1000)
    monkeypatch.setattr("ibot.studies.probing.SECONDS", 0.01)
    monkeypatch.setattr("ibot.system.load.Load.read", lambda self: 0.5)
    command = ["plan", "tiny32", *SMALL, "--images", "1000", "--device", "cpu", "train.batch=8"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "as measured now" in out and "steps of 8 random images, measured now" in out
    assert "load   other processes take 50% of" in out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["share_is"] == "measured"


def test_processes_of_one_cpu_are_not_reckoned_to_be_faster(capsys, monkeypatch):
    monkeypatch.setattr("ibot.studies.probing.SIDE", 64)
    monkeypatch.setattr("ibot.studies.probing.COPIED", 1000)
    for option in ("--devices", "--processes"):
        command = ["plan", "tiny32", "--images", "1000", "--device", "cpu", option, "4"]
        assert main(command) == 2
        assert "4 processes of one CPU share its cores" in capsys.readouterr().err


def test_what_is_not_known_is_null_in_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ibot.engine.trial.peak_memory", lambda: float("nan"))
    write_folder(tmp_path / "data", train=24, val=0, seed=0, size=32)
    assert main(["plan", "tiny32", "--data", str(tmp_path / "data"), *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["trial_gib"] is found["micro_batch_gib"] is None


def test_a_plan_beyond_the_memory_names_the_setting_that_helps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ibot.studies.plan.device_memory", lambda device: 0.01)
    write_folder(tmp_path / "data", train=64, val=0, seed=0, size=32)
    assert (
        main(
            ["plan", "tiny32", "--data", str(tmp_path / "data"), "train.batch=48", "--epochs", "3"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "steps of 1 image were timed" in out, "not what would not fit"
    note = re.search(r"note   more than the 0 GiB here: train.accumulate=(\d+)", out)
    assert note and int(note[1]) > 1 and 48 % int(note[1]) == 0


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
