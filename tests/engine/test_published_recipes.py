"""The published recipes at their real sizes: a few steps, killed in between, resumed bit by bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ibot.cli.main import main
from ibot.system.jsonl import read_jsonl

STEPS = 3
NAMES = ["vit_s16", "swin_t7", "swin_t14", "vit_b16_rand", "vit_b16_in22k", "vit_l16"]


def command(name: str, data: Path, run: Path) -> list[str]:
    """Networks, crops, heads and losses of the recipe; the batch and the number of local views are
    for one machine.
    """
    return [
        sys.executable,
        "-m",
        "ibot",
        "pretrain",
        name,
        "--data",
        str(data),
        "--run",
        str(run),
        "--steps",
        str(STEPS),
        "train.batch=2",
        "augment.num_local=2",
        "mask.start=0 epochs",
        "checkpoint.every=1 steps",
        "checkpoint.keep=1",
        "checkpoint.keep_every=0 epochs",
        "log.every=1",
        "system.workers=0",
        "--quiet",
    ]


def last_step(run: Path) -> int:
    """Step of the newest complete checkpoint, 0 without one."""
    steps = [
        int(path.parent.name.split("_")[1]) for path in run.glob("checkpoints/step_*/state.json")
    ]
    return max(steps, default=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_at_its_real_size_and_resumes_after_a_kill(tmp_path, pictures, name):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = subprocess.Popen(command(name, pictures, broken))
    while last_step(broken) < 1 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and 1 <= last_step(broken) < STEPS
    assert subprocess.run(command(name, pictures, broken)).returncode == 0
    assert subprocess.run(command(name, pictures, whole)).returncode == 0
    for network in ("model", "teacher"):
        a, b = (
            load_file(run / "checkpoints" / f"step_{STEPS:08d}" / f"{network}.safetensors")
            for run in (broken, whole)
        )
        assert all(torch.equal(a[key], tensor) for key, tensor in b.items())
    rows = read_jsonl(whole / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3] and all(row["cls_loss"] > 0 for row in rows)
    assert any(row["patch_loss"] > 0 for row in rows)
    if name == "vit_b16_in22k":  # of these models the students were published
        export = ["weights", "export", str(whole), "--key", "student", "--to", "published"]
        assert main([*export, "--out", str(tmp_path / "student.pth")]) == 0
