"""Real runs whose patches become better and worse: what is kept, named and said."""

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from ibot.config.override import apply
from ibot.engine.loop import train
from ibot.system.jsonl import read_jsonl
from ibot.types import ResultRecord

MATCH = {0: 99.0, 4: 10.0, 8: 30.0, 12: 20.0, 16: 25.0, 20: 28.0}
SETTINGS = ["evaluate.every=4 steps", "checkpoint.every=10 steps", "checkpoint.keep=1"]


def scored(stop=None):
    """An evaluation with the scores of `MATCH` and a k-NN that rises; SIGTERM comes at `stop`."""

    def evaluate(net, step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        scores = {"knn_top1": 50.0 + step, "match_r1": MATCH[step]}
        return [
            ResultRecord(protocol="p", metric=name, value=value, settings={}, step=step)
            for name, value in scores.items()
        ]

    return evaluate


def kept(run):
    folder = run / "checkpoints"
    mark = folder / "best_dense"
    steps = sorted(int(path.name[5:]) for path in folder.glob("step_*"))
    return steps, int(mark.read_text()[5:]) if mark.exists() else None


@pytest.fixture(scope="module")
def config(small):
    return apply(small, SETTINGS)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config, run, quiet=True, evaluate=scored())
    return run


def test_the_checkpoint_of_the_best_patches_outlives_the_newer_ones(whole):
    assert kept(whole) == ([8, 20], 8), "initial weights do not count"


def test_patches_that_get_worse_while_k_nn_rises_are_named_once(whole):
    said = [row for row in read_jsonl(whole / "events.jsonl") if row["event"] == "health"]
    said = [row for row in said if row["verdict"] == "patches get worse"]
    assert [row["step"] for row in said] == [12]
    sentence = "match_r1 20.0, 30.0 at step 8, while k-NN went from 58.0 to 62.0"
    assert said[0]["evidence"] == sentence and "checkpoints/best_dense" in said[0]["advice"]
    assert sentence in (whole / "log.txt").read_text()


@pytest.mark.parametrize("stop", [pytest.param(8, marks=pytest.mark.slow), 12])
def test_a_resumed_run_keeps_names_and_says_the_same(config, whole, tmp_path, stop):
    run = tmp_path / "run"
    assert train(config, run, quiet=True, evaluate=scored(stop)).step == stop
    assert kept(run)[1] == 8
    train(config, run, quiet=True, evaluate=scored())
    assert kept(run) == ([8, 20], 8)
    for name in ("model", "teacher"):
        files = [
            place / "checkpoints/step_00000020" / f"{name}.safetensors" for place in (run, whole)
        ]
        first, second = map(load_file, files)
        assert all(torch.equal(first[key], second[key]) for key in second)
    scores = [
        [(row["step"], row["metric"], row["value"]) for row in read_jsonl(place / "results.jsonl")]
        for place in (run, whole)
    ]
    assert scores[0] == scores[1]


def test_evaluations_change_nothing_of_the_training(small, whole, tmp_path):
    train(small, tmp_path / "run", quiet=True)
    first, second = (
        load_file(place / "checkpoints/step_00000020/model.safetensors")
        for place in (tmp_path / "run", whole)
    )
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_a_name_that_a_kill_left_behind_is_put_right_when_the_run_goes_on(config, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    mark = run / "checkpoints" / "best_dense"
    mark.write_text("step_00000004\n")
    train(config, run, quiet=True, evaluate=scored())
    assert kept(run) == ([8, 20], 8)
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    train(config, run, quiet=True, evaluate=scored())
    assert kept(run) == ([20], None)
