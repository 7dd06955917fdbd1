"""Real runs of the loop on real files: resumption, limits, failures."""

import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import start_script
from safetensors.torch import load_file

from ibot.config.override import apply, to_plain
from ibot.engine import loop, trainer, wrapping
from ibot.engine.checkpoint import find_checkpoint
from ibot.engine.loop import train
from ibot.errors import (
    INTERRUPTED,
    DataError,
    ResourceError,
    RunError,
    TrainingStopped,
    UserError,
    WeightsError,
)
from ibot.method.model import StudentTeacher
from ibot.system import distributed
from ibot.system.jsonl import read_jsonl
from ibot.types import ResultRecord


def weights(run) -> dict[str, torch.Tensor]:
    folder = find_checkpoint(run)
    both = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "teacher")}
    return {
        f"{network}.{name}": t for network, tensors in both.items() for name, t in tensors.items()
    }


def assert_equal_runs(first, second):
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


def quiet(config, run, **kwargs):
    return train(config, run, quiet=True, **kwargs)


def test_a_run_leaves_weights_and_records(small, tmp_path):
    state = quiet(small, tmp_path / "run", command="ibot pretrain")
    assert (state.step, state.images_seen, state.epoch) == (20, 160, 3)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert all(
        np.isfinite(row[key])
        for row in rows
        for key in ("cls_loss", "patch_loss", "effective_rank")
    )
    assert (tmp_path / "run" / "checkpoints" / "last").read_text().strip() == "step_00000020"
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "last",
        "step_00000010",
        "step_00000015",
        "step_00000020",
    }


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory):
    """A run of `small`; it is not to be changed."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    quiet(small, run)
    return run


@pytest.mark.parametrize("first_part", [3, 10, 13])
def test_stopping_in_mid_epoch_and_resuming_changes_nothing(small, unbroken, tmp_path, first_part):
    stopped = quiet(
        replace(small, train=replace(small.train, max_steps=first_part)), tmp_path / "parts"
    )
    assert stopped.step == first_part
    assert quiet(small, tmp_path / "parts").step == 20
    assert_equal_runs(unbroken, tmp_path / "parts")
    for name in ("model", "teacher"):  # as `cmp` and `sha256sum` tell
        first, second = (
            (find_checkpoint(run) / f"{name}.safetensors").read_bytes()
            for run in (unbroken, tmp_path / "parts")
        )
        assert first == second
    kept = [
        [row["cls_loss"] for row in read_jsonl(run / "metrics.jsonl") if row["step"] == 20]
        for run in (unbroken, tmp_path / "parts")
    ]
    # The last log row averages over the steps since the resumption.
    assert len(kept[0]) == len(kept[1]) == 1


def test_resuming_changes_nothing_with_options_of_patches_before_and_behind_the_first_masks(
    small, tmp_path
):
    config = apply(
        small,
        [
            *("mask.start=40 percent", "mask.shape=attention", "train.length=10 steps"),
            *("method.visible_weight=0.3", "method.patch_target_norm=false"),
        ],
    )
    quiet(config, tmp_path / "whole")
    for end in (2, 6, 0):
        quiet(apply(config, [f"train.max_steps={end}"]), tmp_path / "parts")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_run_may_stop_at_a_step_that_was_not_observed(small, tmp_path):
    small = apply(small, ["log.every=50"])
    for end in (3, 4):  # the resumed run makes step 3 alone, which is no multiple of ten
        assert quiet(apply(small, [f"train.max_steps={end}"]), tmp_path / "run").step == end
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 4] and all("teacher_entropy" in row for row in rows)


def test_workers_do_not_change_the_weights(small, unbroken, tmp_path):
    quiet(replace(small, system=replace(small.system, workers=2)), tmp_path / "two")
    assert_equal_runs(unbroken, tmp_path / "two")


def test_micro_batches_give_the_large_batch_up_to_rounding(small, tmp_path):
    small = apply(
        small,
        [
            "model.drop_path=0",
            "method.targets=center",
            "method.koleo_weight=0",
            "train.length=6 steps",
            "optim.lr=4e-3",  # a sign of noise moves a weight by the rate
        ],
    )
    quiet(small, tmp_path / "whole")
    quiet(apply(small, ["train.accumulate=2"]), tmp_path / "parts")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=0, atol=3e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_a_run_says_once_which_kernels_run_and_goes_on_with_others(small, tmp_path):
    quiet(apply(small, ["train.max_steps=2"]), tmp_path / "run")
    plain = apply(small, ["train.max_steps=3", "system.kernels=reference"])
    assert quiet(plain, tmp_path / "run").step == 3
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    first, second = (line for line in lines if "kernels: " in line)
    assert "plain forms alone" in second and "plain forms alone" not in first


def test_a_finished_run_started_again_does_nothing(small, tmp_path):
    quiet(small, tmp_path / "run")
    before = weights(tmp_path / "run")
    assert quiet(small, tmp_path / "run").step == 20
    assert all(torch.equal(before[name], t) for name, t in weights(tmp_path / "run").items())


def test_other_settings_in_the_same_folder_are_refused(small, tmp_path):
    quiet(small, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(RunError, match="other settings") as caught:
        quiet(apply(small, ["optim.lr=1e-3", "model.depth=1"]), tmp_path / "run")
    assert "model.depth: 2 -> 1" in caught.value.why and "optim.lr" in caught.value.why
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_folder_of_other_images_is_refused(small, tmp_path, pictures):
    quiet(small, tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    for i in range(10):
        (other / f"{i}.png").write_bytes((pictures / "000.png").read_bytes())
    with pytest.raises(RunError, match="other images"):
        quiet(apply(small, [f"data.path={other}"]), tmp_path / "run")


def test_a_folder_with_other_files_is_refused(small, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(RunError, match="holds files but no run"):
        quiet(small, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_batch_larger_than_the_data_is_refused(small, tmp_path):
    with pytest.raises(DataError, match=r"batch of 64 .* larger than the data set of 48") as caught:
        quiet(apply(small, ["train.batch=64"]), tmp_path / "run")
    assert "train.batch=32" in caught.value.fix
    assert not (tmp_path / "run").exists()  # else other settings could not be tried there


def test_a_non_finite_loss_stops_with_step_rate_and_files(small, tmp_path):
    broken = apply(
        small,
        ["optim.lr=1e30", "optim.warmup=0 steps", "optim.clip=0", "head.norm_last_layer=false"],
    )
    with pytest.raises(TrainingStopped, match=r"not finite at step \d+ \(learning rate") as caught:
        quiet(broken, tmp_path / "run")
    assert ".png" in caught.value.why
    *_, event, end = read_jsonl(tmp_path / "run" / "events.jsonl")
    assert event["event"] == "non-finite loss" and len(event["files"]) == 8
    assert (end["event"], end["what"], end["fix"]) == (
        "failed",
        caught.value.what,
        caught.value.fix,
    )
    last = find_checkpoint(tmp_path / "run")
    assert last is None or all(
        t.isfinite().all() for t in load_file(last / "model.safetensors").values()
    )


@pytest.mark.parametrize(
    ("error", "raised", "what"),
    [
        (OSError(errno.ENOSPC, "No space left"), ResourceError, "is full"),
        (
            RuntimeError("CUDA out of memory.\nmore"),
            RuntimeError,
            "RuntimeError: CUDA out of memory.",
        ),
        (MemoryError(), MemoryError, "MemoryError"),
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted in the middle of a step"),
    ],
)
def test_what_ends_a_training_is_the_last_of_its_events(small, tmp_path, error, raised, what):
    def evaluate(net, step):
        raise error

    with pytest.raises(raised):
        quiet(small, tmp_path / "run", evaluate=evaluate)
    *_, last = read_jsonl(tmp_path / "run" / "events.jsonl")
    assert last["event"] == "failed" and last["what"].endswith(what) and "more" not in last["what"]
    assert last["host"] == socket.gethostname() and last["code"] == {
        ResourceError: 4,
        KeyboardInterrupt: INTERRUPTED,
    }.get(raised, 1)
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert any(line.endswith(f"  error: {last['what']}") for line in lines[-4:])
    assert f"process 0 of 1 on {socket.gethostname()}" in lines[-1]


def test_what_fails_before_the_first_step_is_kept_too(small, tmp_path, monkeypatch):
    def refuse(*given):
        raise WeightsError("no optimizer", fix="another one")

    monkeypatch.setattr(trainer, "build_optimizer", refuse)
    with pytest.raises(WeightsError):
        quiet(small, tmp_path / "run")
    *_, last = read_jsonl(tmp_path / "run" / "events.jsonl")
    assert (last["event"], last["what"], last["code"], last["step"]) == (
        "failed",
        "no optimizer",
        2,
        0,
    )
    assert "  fix:  another one" in (tmp_path / "run" / "log.txt").read_text()


def test_a_folder_that_is_gone_hides_no_error(small, tmp_path):
    def evaluate(net, step):
        shutil.rmtree(tmp_path / "run")
        raise TrainingStopped("worse than at the start")

    with pytest.raises(TrainingStopped, match="worse than at the start"):
        quiet(small, tmp_path / "run", evaluate=evaluate)
    assert not (tmp_path / "run").exists()


def test_evaluation_runs_on_the_initial_weights_and_at_the_end(small, tmp_path):
    seen = []
    quiet(
        apply(small, ["evaluate.every=10 steps"]),
        tmp_path / "run",
        evaluate=lambda net, step: seen.append(step) or [],
    )
    assert seen == [0, 10, 20]


def stopping_at(stop, seen):
    """An evaluation that gets SIGTERM at the step `stop`, the first time."""

    def evaluate(net, step):
        if step == stop and step not in seen:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(step)
        return [ResultRecord(protocol="knn", metric="knn_top1", value=50.0, settings={}, step=step)]

    return evaluate


def test_a_signal_during_the_first_evaluation_does_not_repeat_it(small, tmp_path):
    small, seen = apply(small, ["evaluate.every=10 steps"]), []
    assert quiet(small, tmp_path / "run", evaluate=stopping_at(0, seen)).step == 0
    assert quiet(small, tmp_path / "run", evaluate=stopping_at(0, seen)).step == 20
    rows = read_jsonl(tmp_path / "run" / "results.jsonl")
    assert seen == [row["step"] for row in rows] == [0, 10, 20]


def test_a_run_killed_before_its_first_checkpoint_begins_its_records_anew(small, tmp_path):
    small, seen = apply(small, ["train.max_steps=5", "log.every=1", "evaluate.every=10 steps"]), []
    for _ in range(2):
        quiet(small, tmp_path / "run", evaluate=stopping_at(None, seen))
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [
        1,
        2,
        3,
        4,
        5,
    ]
    rows = read_jsonl(tmp_path / "run" / "results.jsonl")
    assert seen == [0, 5, 5] and [row["step"] for row in rows] == [0, 5]


def test_a_stop_right_after_a_save_leaves_the_checkpoint_alone(small, tmp_path, monkeypatch):
    saved, plain = [], loop.save_checkpoint

    def save_and_stop(*args, **kwargs):
        saved.append(plain(*args, **kwargs).name)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    assert quiet(small, tmp_path / "run").step == 5
    assert saved == ["step_00000005"]


def test_the_time_in_which_processes_wait_for_each_other_counts(small, tmp_path, monkeypatch):
    plain = loop.any_true
    monkeypatch.setattr(loop, "any_true", lambda *given: (time.sleep(0.05), plain(*given))[1])
    quiet(apply(small, ["train.max_steps=3", "log.every=1"]), tmp_path / "run")
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 3 and all(row["images_per_second"] < 8 / 0.05 for row in rows)


@pytest.mark.parametrize(
    ("name", "other"), [("train.batch", 16), ("the names of the images", "else")]
)
def test_processes_that_differ_are_refused_before_they_work_together(
    small, tmp_path, monkeypatch, name, other
):
    monkeypatch.setattr(
        distributed, "gather", lambda own: [own, {**own, name: other} if name in own else own]
    )
    monkeypatch.setattr(
        loop,
        "build_trainer",
        lambda *given, **named: pytest.fail("they would wait for each other there"),
    )
    with pytest.raises(UserError, match=f"differ in {name}"):
        quiet(small, tmp_path / "run")


def test_processes_that_go_on_from_different_steps_are_refused(small, tmp_path, monkeypatch):
    key = "the step to go on from"
    monkeypatch.setattr(
        distributed, "gather", lambda own: [own, {**own, key: 5} if key in own else own]
    )
    monkeypatch.setattr(
        wrapping, "wrap_student", lambda *given: pytest.fail("they would wait for each other there")
    )
    with pytest.raises(UserError, match=f"differ in {key}"):
        quiet(small, tmp_path / "run")


SCRIPT = """
import json, sys
from ibot.config.override import from_plain
from ibot.engine.loop import train
train(from_plain(json.loads(sys.argv[1])), sys.argv[2], command="test")
"""


def start(config, run, tmp_path):
    """The same training in a process of its own."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    return start_script(script, json.dumps(to_plain(config)), run)


def wait_for_step(run, step, process):
    """Until metrics.jsonl has reached `step`; a process that ends or stands still for a minute
    fails the test.
    """
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        rows = read_jsonl(run / "metrics.jsonl")
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step}: {process.ended(1)}")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A run of 60 steps that nothing broke."""
    run = tmp_path_factory.mktemp("whole") / "run"
    quiet(apply(small, ["train.length=60 steps", "checkpoint.every=60 steps"]), run)
    return run


def test_sigterm_saves_and_the_same_command_resumes_to_equal_weights(small, whole, tmp_path):
    small = apply(small, ["train.length=60 steps", "checkpoint.every=1000 steps", "log.every=1"])
    process = start(small, tmp_path / "run", tmp_path)
    wait_for_step(tmp_path / "run", 10, process)
    process.send_signal(signal.SIGTERM)
    done = process.ended(60)
    assert done.returncode == 0 and "the same command resumes" in done.stdout
    step = json.loads((find_checkpoint(tmp_path / "run") / "state.json").read_text())["step"]
    assert 10 <= step < 60
    quiet(small, tmp_path / "run")
    assert_equal_runs(whole, tmp_path / "run")


def kill_and_resume(small, tmp_path, kills, seed) -> int:
    """Kill -9 at random moments, `kills` times; returns how many kills hit a running training."""
    rng = np.random.default_rng(seed)
    run, hits = tmp_path / "run", 0
    for _ in range(kills):
        process = start(small, run, tmp_path)
        began = (find_checkpoint(run).name if find_checkpoint(run) else "none", time.monotonic())
        # Wait until it trains, then a random moment longer: saves happen every step, so many kills
        # fall into one.
        while process.poll() is None and not (
            read_jsonl(run / "events.jsonl") and _newer(run, began)
        ):
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.3)))
        hits += process.poll() is None
        process.kill()
    return hits


def _newer(run, began) -> bool:
    last = find_checkpoint(run)
    return (last is not None and last.name != began[0]) or time.monotonic() - began[1] > 30


def test_kill_nine_during_saves_loses_nothing(small, whole, tmp_path):
    small = apply(small, ["train.length=60 steps", "checkpoint.every=1 steps", "log.every=1"])
    assert kill_and_resume(small, tmp_path, kills=2, seed=0) == 2
    assert quiet(apply(small, ["checkpoint.every=60 steps"]), tmp_path / "run").step == 60
    assert_equal_runs(whole, tmp_path / "run")


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_weights_of_the_unbroken_run(small, tmp_path):
    small = apply(
        small,
        ["train.length=3000 steps", "checkpoint.every=2 steps", "log.every=10", "system.workers=1"],
    )
    quiet(apply(small, ["checkpoint.every=1000 steps"]), tmp_path / "whole")
    hits = kill_and_resume(small, tmp_path, kills=20, seed=1)
    assert quiet(apply(small, ["checkpoint.every=1000 steps"]), tmp_path / "run").step == 3000
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")
    assert hits == 20


class Wrapper(torch.nn.Module):
    """In the place of what averages gradients over processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *given, **named):
        return self.module(*given, **named)


def test_the_wrapper_of_the_student_goes_before_its_group_of_processes(
    small, tmp_path, monkeypatch
):
    wrappers, alive = [], []

    def wrap(student, *given):
        wrapper = Wrapper(student)
        wrappers.append(weakref.ref(wrapper))
        return wrapper

    monkeypatch.setattr(wrapping, "wrap_student", wrap)
    monkeypatch.setattr(
        distributed, "shutdown", lambda: alive.append([w() is not None for w in wrappers])
    )
    quiet(apply(small, ["train.max_steps=1"]), tmp_path / "run")
    assert alive == [[False]]


def test_the_networks_move_to_the_device(small, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(
        StudentTeacher, "to", lambda network, device: moved.append(device) or network
    )
    quiet(apply(small, ["train.max_steps=1"]), tmp_path / "run")
    assert moved == [torch.device("cpu")]


def test_a_second_writer_is_refused(small, tmp_path):
    small = apply(small, ["train.length=2000 steps", "checkpoint.every=1000 steps", "log.every=1"])
    process = start(small, tmp_path / "run", tmp_path)
    try:
        wait_for_step(tmp_path / "run", 1, process)
        with pytest.raises(RunError, match="in use") as caught:
            quiet(small, tmp_path / "run")
        assert str(process.pid) in caught.value.why
    finally:
        process.kill()


def test_a_second_ctrl_c_interrupts(small, tmp_path):
    assert threading.current_thread() is threading.main_thread()
    from ibot.engine.logging import StopSignal

    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
