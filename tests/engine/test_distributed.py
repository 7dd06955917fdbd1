"""Two processes on the CPU (gloo) against one."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from commands import script_in_two
from safetensors.torch import load_file
from several import run_forked

from ibot.config.override import apply, to_plain
from ibot.engine.checkpoint import find_checkpoint
from ibot.engine.loop import train
from ibot.report.story import story
from ibot.report.summary import Summary
from ibot.system.jsonl import read_jsonl

CODE = """
import faulthandler, json, sys
faulthandler.enable()  # a process that dies of a signal says where
from pathlib import Path
import torch
from ibot.config.override import from_plain
from ibot.engine import loop, transfer
folder = Path(sys.argv[1])
seen = []
original = transfer.to_device
def recording(batch, *where):
    sums = int(batch.masks.map.sum()), int(batch.global_views.long().sum())
    seen.append([batch.index.tolist(), *sums])
    return original(batch, *where)
transfer.to_device = recording
try:
    config = from_plain(json.loads((folder / "config.json").read_text()))
    loop.train(config, folder / "run", command="test", quiet=True)
finally:
    import os
    (folder / f"seen{os.environ['RANK']}.json").write_text(json.dumps(seen))
"""


def train_in_two(config, folder):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_plain(config)))
    (folder / "script.py").write_text(CODE)
    done = [process.ended() for process in script_in_two(folder / "script.py", folder)]
    return done, [json.loads((folder / f"seen{rank}.json").read_text()) for rank in range(2)]


STEPS = 16


@pytest.fixture
def steady(small):
    settings = [f"train.length={STEPS} steps", "log.every=1", f"checkpoint.every={STEPS} steps"]
    return apply(small, [*settings, "model.drop_path=0.3"])


@pytest.mark.distributed
@pytest.mark.parametrize(
    "settings",
    [
        ["method.targets=center"],
        ["method.targets=sinkhorn"],
        [
            *("method.targets=sinkhorn", "method.visible_weight=0.3", "method.patch_balance=all"),
            *("method.patch_target_norm=false", "mask.start=25 percent"),
        ],
    ],
    ids=["center", "sinkhorn", "options of patches"],
)
def test_two_processes_see_the_images_of_one_and_follow_its_losses(steady, tmp_path, settings):
    config = apply(steady, [*settings, "method.koleo_weight=0.1"])
    done, seen = train_in_two(config, tmp_path / "two")
    assert [process.returncode for process in done] == [0, 0], "".join(
        process.stderr for process in done
    )
    train(config, tmp_path / "one", quiet=True)
    losses = [
        np.array(
            [[row["cls_loss"], row["patch_loss"]] for row in read_jsonl(run / "metrics.jsonl")]
        )
        for run in (tmp_path / "one", tmp_path / "two" / "run")
    ]
    assert losses[0].shape == (STEPS, 2)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    a, b = (
        load_file(find_checkpoint(run) / "teacher.safetensors")
        for run in (tmp_path / "one", tmp_path / "two" / "run")
    )
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=0, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
    from ibot.data.loader import Loader
    from ibot.data.sets.scan import scan
    from ibot.engine.run import read_config

    config = read_config(tmp_path / "one")  # how views are made was chosen by the run
    for step, (batch,) in enumerate(
        Loader(config, scan(config.data.path), grid=(4, 4), end_step=STEPS)
    ):
        together = [seen[0][step], seen[1][step]]
        assert sorted(together[0][0] + together[1][0]) == sorted(batch.index.tolist())
        assert sum(part[1] for part in together) == int(batch.masks.map.sum())
        assert sum(part[2] for part in together) == int(batch.global_views.long().sum())


@pytest.mark.distributed
def test_a_non_finite_loss_stops_all_processes_together(steady, tmp_path):
    broken = apply(steady, ["optim.lr=1e30", "optim.warmup=0 steps", "optim.clip=0"])
    done, seen = train_in_two(broken, tmp_path / "two")
    for process in done:
        assert process.returncode and "the loss is not finite at step" in process.stderr
    assert len(seen[0]) == len(seen[1]) < STEPS


@pytest.mark.distributed
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_told_by_the_folder_of_the_run_and_its_report(small, tmp_path, killed):
    small = apply(small, ["evaluate.every=5 steps"])

    def work(rank):
        def evaluate(backbone, step):
            if step and rank == killed:
                os.kill(os.getpid(), signal.SIGKILL)
            return []

        train(small, tmp_path / "run", command="test", quiet=True, evaluate=evaluate)

    codes, _ = run_forked(work, tmp_path)
    assert codes == ([-9, 4] if killed == 0 else [4, -9])
    events = read_jsonl(tmp_path / "run" / "events.jsonl")
    (failed,) = [event for event in events if event["event"] == "failed"]
    assert failed == events[-1]
    assert (failed["code"], failed["process"], failed["step"]) == (4, killed, 5)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("error: a process was ended from outside") == 1
    assert f"from: process {killed} of 2 on " in log
    summary = Summary(story(tmp_path / "run"))
    assert summary.status == ("failed", "bad") and "ended from outside" in summary._ended()
