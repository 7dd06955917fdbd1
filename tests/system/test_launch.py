"""`--processes 2` as people type it: real processes, real signals."""

import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ibot.cli.main import main
from ibot.errors import IbotError, ResourceError
from ibot.system import launch
from ibot.system.jsonl import read_jsonl

SMALL = [
    "model.width=24",
    "model.depth=2",
    "model.heads=2",
    "model.drop_path=0.1",
    "head.out_dim=32",
    "train.batch=8",
    "head.patch_out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "train.precision=float32",
    "system.workers=0",
    "system.device=cpu",
    "system.threads=1",
    "log.tensorboard=false",
    "log.every=1",
]
OF_THE_MOMENT = (
    "images_per_second",
    "wait_fraction",
    "decode_seconds",
    "render_seconds",
    "busy_seconds",
    "queued_seconds",
    "transfer_seconds",
    "step_seconds",
    "seconds",
    "when",
    "health",
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """train/ and val/ with two classes of noise."""
    folder, random = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 9)):
        for level, name in ((60, "dark"), (120, "bright")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(level, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def start(arguments, **environment):
    command = [sys.executable, "-m", "ibot", *arguments]
    # A process that aborts shows where it was.
    own = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    environment = {**os.environ, **own, **environment}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def without_the_moment(rows):
    return [{key: value for key, value in row.items() if key not in OF_THE_MOMENT} for row in rows]


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Launch a shell script in the place of `ibot`: nothing is imported again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "")
    logger, handler = logging.getLogger("torch.distributed"), signal.getsignal(signal.SIGQUIT)
    level = logger.level

    def run(script, count=2):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return launch.launch(count, ())

    yield run
    logger.setLevel(level)
    signal.signal(signal.SIGQUIT, handler)


@pytest.mark.distributed
def test_the_launcher_needs_neither_the_machines_name_nor_a_temporary_folder(
    launched, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        socket, "getfqdn", lambda *given: "127.0.0.1"
    )  # in the place of one that nobody resolves
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert launched(f'echo "$MASTER_ADDR" > "{tmp_path}/$RANK"') == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["localhost\n"] * 2


@pytest.mark.distributed
def test_the_code_of_the_process_that_fails_is_that_of_all(launched):
    assert launched('if [ "$RANK" = 1 ]; then exit 3; fi; exec sleep 20') == 3


def failed(codes):
    return SimpleNamespace(
        failures={rank: SimpleNamespace(exitcode=code) for rank, code in codes.items()}
    )


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ({}, 0),
        ({0: 2, 1: -15}, 2),
        ({0: -15, 1: 3}, 3),
        ({1: -9, 0: 2}, 2),
        ({0: -2}, 130),
        ({0: -15, 1: -15}, 143),
        ({0: -10}, 138),
    ],
)
def test_the_exit_code_is_that_of_the_process_that_failed_by_itself(codes, code):
    assert launch._exit_code(failed(codes)) == code


@pytest.mark.parametrize(
    ("codes", "kind", "words"),
    [
        ({1: -9, 0: -15}, ResourceError, "process 1 was killed"),
        ({0: -15, 1: -9}, ResourceError, "process 1 was killed"),
        ({0: -11}, IbotError, "process 0 was ended by SIGSEGV"),
    ],
)
def test_processes_that_the_system_ended_are_named(codes, kind, words):
    with pytest.raises(kind, match=words) as caught:
        launch._exit_code(failed(codes))
    assert type(caught.value) is kind


@pytest.mark.parametrize("number", launch.FORWARDED)
def test_signals_are_handed_on_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in (*launch.FORWARDED, signal.SIGHUP)]
    gone = subprocess.Popen(["true"])
    gone.wait()
    process = subprocess.Popen(["sleep", "20"])
    with launch.forwarding(lambda: [gone.pid, process.pid]) as heard:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(number)
        assert process.wait(10) == -number and heard == [number]
    assert [signal.getsignal(n) for n in (*launch.FORWARDED, signal.SIGHUP)] == before


def test_before_any_process_is_started_a_signal_ends_the_launcher():
    with pytest.raises(SystemExit) as ended, launch.forwarding(list):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    with pytest.raises(KeyboardInterrupt), launch.forwarding(list):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_evaluate_as_one_does(labelled, tmp_path):
    training = [
        "pretrain",
        "tiny32",
        "--data",
        str(labelled),
        "--steps",
        "40",
        "evaluate.every=10 steps",
        "method.koleo_weight=0.1",
        *SMALL,
    ]
    two = start([*training, "--run", str(tmp_path / "two"), "--processes", "2"])
    assert main([*training, "--run", str(tmp_path / "one"), "--quiet"]) == 0
    printed, errors = two.communicate(timeout=200)
    assert two.returncode == 0 and not errors, errors
    assert "batch 8 = 2 processes x 4" in printed and printed.count("step 40: knn_top1") == 1
    for name, count in (("metrics.jsonl", 40), ("results.jsonl", 10)):  # k-NN and match
        one, other = (
            without_the_moment(read_jsonl(tmp_path / run / name)) for run in ("one", "two")
        )
        assert len(one) == len(other) == count
        for row, same in zip(one, other, strict=True):
            assert row.keys() == same.keys()
            numbers = {key: value for key, value in row.items() if isinstance(value, float)}
            assert {key: same[key] for key in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-5)
            assert all(row[key] == same[key] for key in row.keys() - numbers.keys() - {"extra"})


@pytest.mark.distributed
@pytest.mark.slow  # tests/system/test_watch.py has the same without the launcher
def test_the_error_of_one_process_is_what_the_user_sees(labelled, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from ibot.engine import transfer\n"
        "    from ibot.errors import DataError\n"
        "    def unplugged(*given):\n"
        "        raise DataError('the disk of this machine is gone', fix='plug it in')\n"
        "    transfer.to_device = unplugged\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = start(
        [
            "pretrain",
            "tiny32",
            "--data",
            str(labelled),
            "--run",
            str(tmp_path / "run"),
            "--processes",
            "2",
            "--steps",
            "3",
            *SMALL,
        ],
        PYTHONPATH=path,
    )
    errors = run.communicate(timeout=100)[1]
    assert run.returncode == 2
    assert errors.splitlines()[:2] == [
        "ibot: error: the disk of this machine is gone",
        "  fix:  plug it in",
    ]
    assert "from: process 1 of 2" in errors and len(errors.splitlines()) == 3


@pytest.mark.distributed
@pytest.mark.slow  # two runs that are stopped and seen to be saved
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_the_launcher_saves_and_ends_the_run(labelled, tmp_path, number, code):
    folder = tmp_path / "run"
    run = start(
        [
            "pretrain",
            "tiny32",
            "--data",
            str(labelled),
            "--run",
            str(folder),
            "--processes",
            "2",
            *SMALL,
        ]
    )
    while not (folder / "metrics.jsonl").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    run.send_signal(number)
    printed, errors = run.communicate(timeout=60)
    assert run.returncode == code and errors == ("interrupted\n" if code == 130 else "")
    state = json.loads(next(folder.glob("checkpoints/step_*/state.json")).read_text())
    assert state["step"] == read_jsonl(folder / "metrics.jsonl")[-1]["step"] > 0
    assert "saved; the same command resumes it" in printed


@pytest.mark.distributed
@pytest.mark.slow
def test_a_killed_process_ends_the_run_as_a_lack_of_resources(labelled, tmp_path):
    folder = tmp_path / "run"
    run = start(
        [
            "pretrain",
            "tiny32",
            "--data",
            str(labelled),
            "--run",
            str(folder),
            "--processes",
            "2",
            *SMALL,
        ]
    )
    while not (folder / "metrics.jsonl").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    errors = run.communicate(timeout=60)[1]
    assert (
        run.returncode == 4
        and "was killed" in errors
        and "memory" in errors
        and "Traceback" not in errors
    )


def test_a_launcher_leaves_no_thread_that_python_would_stop_within_the_store(monkeypatch):
    """Some runs ended with 'terminate called without an active exception', after all was done."""
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    monkeypatch.setitem(os.environ, "TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGQUIT")
    before = set(threading.enumerate())
    gc.disable()  # it may collect the launcher with its thread in time, or not
    try:
        assert launch.launch(2, ["--version"]) == 0
        assert set(threading.enumerate()) <= before
    finally:
        gc.enable()
