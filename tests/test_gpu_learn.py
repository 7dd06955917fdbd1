"""The comparison that a GPU is to make, without one: what it would do, and in miniature."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ibot.data.scenes import write_folder

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import gpu_learn
from benchmarks.gpu_learn import LEAST, SETTINGS, merged, next_move
from benchmarks.learned import ARMS, Run, curve_of, reached

from ibot import apply, recipe
from ibot.config.override import diff
from ibot.config.resolve import check
from ibot.errors import STOPPED

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


def test_runs_have_seen_as_many_images_after_each_call_and_come_to_their_end():
    stand, calls = dict.fromkeys(ARMS, 0), 0
    while next_move(stand, TOTAL, 555):
        called(stand, 555, {"ibot": 14, "class": 17})
        assert stand["ibot"] == stand["class"] > 0
        calls += 1
    assert set(stand.values()) == {TOTAL} and calls == 2


@pytest.mark.parametrize("seed", range(5))
def test_calls_that_are_killed_anywhere_cost_time_alone(seed):
    draw, stand = random.Random(seed), dict.fromkeys(ARMS, 0)
    for _ in range(12):
        speeds = {name: draw.uniform(5, 20) for name in ARMS}
        called(stand, draw.uniform(100, 555), speeds, draw.choice([None, draw.uniform(1, 300)]))
    for _ in range(10):
        called(stand, 555, dict.fromkeys(ARMS, 10))
    assert set(stand.values()) == {TOTAL}


def test_nothing_is_begun_for_which_time_is_lacking():
    level, apart = {"ibot": 5, "class": 5}, {"ibot": 5, "class": 4}
    assert next_move(level, TOTAL, 2 * LEAST - 1) is next_move(apart, TOTAL, LEAST - 1) is None
    assert next_move(level, TOTAL, 2 * LEAST).seconds == LEAST == next_move(apart, 9, LEAST).seconds
    assert next_move(apart, 0, 100).steps == 5 and next_move(level, 0, 100).steps == 0


def test_runs_differ_in_patch_loss_and_masks_alone():
    runs = [apply(recipe("one_gpu"), merged(*SETTINGS, *arm.settings)) for arm in ARMS.values()]
    for config in runs:
        check(config)
    assert {key for key, *_ in diff(*runs)} == {"method.patch_weight", "mask.ratio"}


def test_a_dry_call_prints_the_command_that_comes_next_and_makes_nothing(
    tmp_path, monkeypatch, capsys
):
    given = ["--seconds", "115", "train.length=5 epochs", "model.width=192"]
    monkeypatch.setattr(sys, "argv", ["gpu_learn", "set", str(tmp_path / "out"), "--dry", *given])
    gpu_learn.main()
    command, _, limit = capsys.readouterr().out.partition(" # ")
    words = shlex.split(command)
    assert words[:3] == ["ibot", "pretrain", "one_gpu"] and limit == "50 s at most\n"
    assert words.count("train.length=5 epochs") == 1 and "train.length=200 epochs" not in words
    assert words[words.index("--run") + 1] == str(tmp_path / "out" / "ibot")
    assert not (tmp_path / "out").exists()


def test_a_later_call_keeps_the_settings_of_the_first(tmp_path, capsys):
    (tmp_path / "settings.json").write_text('{"settings": ["train.seed=1"]}')
    assert gpu_learn.settings_of(tmp_path, []) == ["train.seed=1"]
    with pytest.raises(SystemExit):
        gpu_learn.settings_of(tmp_path, ["train.seed=2"])
    assert "other settings: train.seed=1" in capsys.readouterr().err


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
    wait_for(lambda: reached(out / "ibot") >= 100, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stopped = start("--seconds", "500")
    wait_for(lambda: reached(out / "ibot") >= 300, stopped)
    stopped.terminate()
    assert stopped.wait(60) == STOPPED
    stand = reached(out / "ibot")
    assert 300 <= stand < 1000 and (out / "learned.md").exists()
    for _ in range(6):
        ended = start("--seconds", "120").wait()
        assert ended in (0, STOPPED)
        if ended == 0:
            break
    assert ended == 0
    assert [reached(out / arm) for arm in ARMS] == [1000, 1000]
    assert [row["step"] for row in curve_of(out)] == list(range(0, 1001, 100))
    for arm in ARMS:
        run = Run(out / arm)
        assert all(run.score(name) for name in ("knn", "linear", "match"))
    assert "83.8" in (out / "learned.md").read_text()
