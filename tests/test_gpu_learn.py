"""The comparison that a GPU is to make, without one: what it would do, and in miniature."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ibot.data.loader import Loader
from ibot.data.scenes import write_folder
from ibot.data.sets.scan import scan

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import gpu_learn
from benchmarks.gpu_learn import LEAST, SETTINGS, merged, next_move
from benchmarks.learned import ARMS, Run, curve_of, reached, write

from ibot import apply, recipe
from ibot.config.override import diff
from ibot.config.resolve import check
from ibot.errors import STOPPED
from ibot.method.flops import step_flops

TOTAL, START = 7200, 15
"""Steps of a run, and seconds until the first step of a piece."""


def called(stand, seconds, speeds, killed_after=None):
    """What a call makes of the steps of each run; killed in the middle, checkpoints stay."""
    left = seconds
    while move := next_move(stand, TOTAL, left):
        length = min(move.seconds, killed_after or move.seconds)
        steps = int(speeds[move.arm] * max(0.0, length - START))
        goes_to = min(move.steps or TOTAL, TOTAL, stand[move.arm] + steps)
        took = START + (goes_to - stand[move.arm]) / speeds[move.arm]
        if killed_after:
            stand[move.arm] = max(stand[move.arm], goes_to // 360 * 360)
            return
        stand[move.arm] = goes_to
        left -= max(took, START) if goes_to == move.steps else length


SPEEDS = {"other_view": 12, "ibot": 14, "class": 17}
"""Steps/s."""
PAIR = ("ibot", "class")


@pytest.mark.parametrize(("arms", "expected"), [(PAIR, 2), (tuple(ARMS), 4)])
def test_runs_have_seen_as_many_images_after_each_call_and_come_to_their_end(arms, expected):
    stand, calls = dict.fromkeys(arms, 0), 0
    while next_move(stand, TOTAL, 555):
        called(stand, 555, SPEEDS)
        assert len(set(stand.values())) == 1 and min(stand.values()) > 0
        calls += 1
    assert set(stand.values()) == {TOTAL} and calls == expected


@pytest.mark.parametrize("seed", range(5))
def test_calls_that_are_killed_anywhere_cost_time_alone(seed):
    draw, stand = random.Random(seed), dict.fromkeys(ARMS, 0)
    for _ in range(12):
        speeds = {name: draw.uniform(5, 20) for name in ARMS}
        called(stand, draw.uniform(100, 555), speeds, draw.choice([None, draw.uniform(1, 300)]))
    for _ in range(10):
        called(stand, 555, dict.fromkeys(ARMS, 10))
    assert set(stand.values()) == {TOTAL}


def test_an_arm_that_is_named_later_catches_up_before_the_others_go_on():
    stand = {"other_view": 0, "ibot": 3600, "class": 3600}
    called(stand, 555, SPEEDS)
    assert len(set(stand.values())) == 1 and stand["ibot"] > 3600


def test_an_arm_a_few_steps_short_leaves_the_time_to_one_that_has_not_begun():
    move = next_move({"other_view": 1000, "ibot": 990, "class": 0}, TOTAL, 202)
    assert (move.arm, move.steps) == ("class", 1000) and 199 < move.seconds < 201


def test_nothing_is_begun_for_which_time_is_lacking():
    level, apart = {"ibot": 5, "class": 5}, {"ibot": 5, "class": 4}
    assert next_move(level, TOTAL, 2 * LEAST - 1) is next_move(apart, TOTAL, LEAST - 1) is None
    assert next_move(level, TOTAL, 2 * LEAST).seconds == LEAST == next_move(apart, 9, LEAST).seconds
    assert next_move(apart, 0, 100).steps == 5 and next_move(level, 0, 100).steps == 0
    three = dict.fromkeys(ARMS, 5)
    assert next_move(three, TOTAL, 3 * LEAST - 1) is None
    assert next_move(three, TOTAL, 3 * LEAST).seconds == pytest.approx(LEAST)


def configs():
    return {
        name: apply(recipe("one_gpu"), merged(*SETTINGS, *arm.settings))
        for name, arm in ARMS.items()
    }


def test_runs_differ_in_losses_of_patches_and_masks_alone():
    found = configs()
    for config in found.values():
        check(config)
    differ = {name: {key for key, *_ in diff(found["ibot"], found[name])} for name in ARMS}
    assert differ == {
        "ibot": set(),
        "class": {"method.patch_weight", "mask.ratio"},
        "other_view": {
            *("method.patch_residual", "method.visible_weight", "method.visible_target"),
        },
    }


def test_arms_stand_by_the_length_of_their_steps_and_the_third_costs_what_is_said():
    products = {name: step_flops(config).total for name, config in configs().items()}
    assert list(products) == sorted(products, key=products.__getitem__, reverse=True)
    assert products["other_view"] / products["ibot"] == pytest.approx(1.16, abs=0.005)


def test_all_runs_see_the_same_crops(tmp_path):
    write_folder(tmp_path, train=8, val=0, seed=0, size=32)
    seen = {}
    for name, config in configs().items():
        small = apply(config, [*TINY, "train.batch=4"])
        (batch,) = next(iter(Loader(small, scan(tmp_path / "train"), grid=(4, 4), end_step=1)))
        seen[name] = batch
    for batch in seen.values():
        assert batch.index.tolist() == seen["ibot"].index.tolist()
        assert torch.equal(batch.global_views, seen["ibot"].global_views)
        assert torch.equal(batch.local_views, seen["ibot"].local_views)


def test_a_dry_call_prints_the_command_that_comes_next_and_makes_nothing(
    tmp_path, monkeypatch, capsys
):
    given = ["--seconds", "115", "train.length=5 epochs", "model.width=192"]
    monkeypatch.setattr(sys, "argv", ["gpu_learn", "set", str(tmp_path / "out"), "--dry", *given])
    gpu_learn.main()
    command, _, limit = capsys.readouterr().out.partition(" # ")
    words = shlex.split(command)
    assert words[:3] == ["ibot", "pretrain", "one_gpu"] and limit == "33 s at most\n"
    assert words.count("train.length=5 epochs") == 1 and "train.length=200 epochs" not in words
    assert words[words.index("--run") + 1] == str(tmp_path / "out" / "other_view")
    assert not (tmp_path / "out").exists()


def test_a_later_call_keeps_the_settings_of_the_first(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"settings": ["train.seed=1"]}')
    assert gpu_learn.settings_of(tmp_path, []) == ["train.seed=1"]
    with pytest.raises(SystemExit):
        gpu_learn.settings_of(tmp_path, ["train.seed=2"])
    assert "other settings: train.seed=1" in capsys.readouterr().err


def test_arms_are_those_named_those_of_before_or_all(tmp_path, capsys, monkeypatch):
    assert gpu_learn.arms_named("class, ibot") == ["ibot", "class"]
    assert gpu_learn.arms_of(tmp_path, None) == list(ARMS)
    (tmp_path / "settings.json").write_text('{"settings": [], "arms": ["ibot", "class"]}')
    assert gpu_learn.arms_of(tmp_path, None) == ["ibot", "class"]
    assert gpu_learn.arms_of(tmp_path, ["class"]) == ["class"]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["gpu_learn", "set", str(out), "--arms", "ibot,dino"])
    with pytest.raises(SystemExit) as ended:
        gpu_learn.main()
    assert ended.value.code == 2 and not out.exists()
    assert "no arm 'dino'; there are other_view, ibot, class" in capsys.readouterr().err


@pytest.mark.parametrize("arms", [PAIR, tuple(ARMS)])
def test_the_table_and_the_record_are_of_the_arms_that_were_wanted(tmp_path, arms):
    write(tmp_path, "set", [], arms)
    rows = json.loads((tmp_path / "learned.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(arms)
    text = (tmp_path / "learned.md").read_text()
    assert all((f"| {ARMS[name].title} |" in text) == (name in arms) for name in ARMS)


def test_nothing_to_evaluate_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["gpu_learn", "set", str(out), "--evaluate"])
    with pytest.raises(SystemExit) as ended:
        gpu_learn.main()
    assert ended.value.code == 2 and not out.exists()
    assert "nothing to evaluate" in capsys.readouterr().err


TINY = [
    *("model.width=64", "model.depth=2", "model.heads=2", "model.patch=8", "train.batch=16"),
    *("augment.global_size=32", "augment.local_size=16", "augment.num_local=2"),
    *("head.out_dim=64", "head.patch_out_dim=64", "head.hidden_dim=64", "head.bottleneck_dim=16"),
    *("train.length=1000 steps", "checkpoint.every=100 steps", "evaluate.match=8"),
    *("system.device=cpu", "system.workers=0"),
]


@pytest.mark.slow
def test_a_miniature_survives_being_killed_and_comes_to_its_end(tmp_path):
    write_folder(tmp_path / "set", train=120, val=40, seed=0, size=32)
    root, out = Path(__file__).parents[1], tmp_path / "out"
    command = ["bash", "benchmarks/gpu_learn.sh", str(tmp_path / "set"), str(out)]
    environment = {**os.environ, "PYTHON": sys.executable}

    def start(*more):
        return subprocess.Popen(
            [*command, *more], cwd=root, env=environment, start_new_session=True
        )

    def wait_for(done, process):
        while not done() and process.poll() is None:
            time.sleep(0.1)

    first = start("--seconds", "500", *TINY)
    wait_for(lambda: reached(out / "other_view") >= 100, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stopped = start("--seconds", "500")
    wait_for(lambda: reached(out / "other_view") >= 300, stopped)
    stopped.terminate()
    assert stopped.wait(60) == STOPPED
    stand = reached(out / "other_view")
    assert 300 <= stand < 1000 and (out / "learned.md").exists()
    for _ in range(6):
        ended = start("--seconds", "180").wait()
        assert ended in (0, STOPPED)
        if ended == 0:
            break
    assert ended == 0
    assert [reached(out / arm) for arm in ARMS] == [1000] * 3
    assert [row["step"] for row in curve_of(out, list(ARMS))] == list(range(0, 1001, 100))
    for arm in ARMS:
        run = Run(out / arm)
        assert all(run.score(name) for name in ("knn", "linear", "match"))
    text = (out / "learned.md").read_text()
    assert "83.8" in text and all(f"| {arm.title} |" in text for arm in ARMS.values())
