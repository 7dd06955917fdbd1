import errno
import json
import os
from dataclasses import replace

import pytest
import torch

from ibot.engine import checkpoint
from ibot.engine.checkpoint import find_checkpoint, load_checkpoint, remove_leftovers, save_checkpoint
from ibot.engine.loop import train
from ibot.engine.optimizer import build_optimizer
from ibot.errors import ResourceError, WeightsError
from ibot.method.model import StudentTeacher
from ibot.types import RunState


@pytest.fixture
def parts(small):
    torch.manual_seed(0)
    model = StudentTeacher(small)
    optimizer = build_optimizer(model.student, small.optim)
    for p in model.student.parameters():
        p.grad = torch.randn_like(p) if p.requires_grad else None
    optimizer.step()
    model.cls_center.value.normal_()
    return model, optimizer, small


def save(parts, run, step, **kwargs):
    model, optimizer, config = parts
    return save_checkpoint(run, model, optimizer, RunState(step=step, images_seen=8 * step), config=config, **kwargs)


def test_everything_comes_back(parts, tmp_path, small):
    model, optimizer, _ = parts
    save(parts, tmp_path, 7)
    other = StudentTeacher(small)
    other_optimizer = build_optimizer(other.student, small.optim)
    state = load_checkpoint(find_checkpoint(tmp_path), other, other_optimizer)
    assert (state.step, state.images_seen) == (7, 56)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    a, b = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert a.keys() == b.keys() and all(torch.equal(a[i]["exp_avg"], b[i]["exp_avg"]) for i in a)


def test_the_newest_are_kept_and_the_protected(parts, tmp_path):
    for step in range(1, 8):
        save(parts, tmp_path, step, keep=2, protect=lambda step: step % 3 == 0)
    left = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert left == ["step_00000003", "step_00000006", "step_00000007"]
    assert (tmp_path / "checkpoints" / "last").read_text() == "step_00000007\n"


def test_saving_a_step_again_replaces_it(parts, tmp_path):
    save(parts, tmp_path, 3)
    parts[0].cls_center.value.fill_(5)
    save(parts, tmp_path, 3)
    training = torch.load(find_checkpoint(tmp_path) / "training.pt", weights_only=True)
    assert (training["centers"]["cls"] == 5).all()


def test_incomplete_folders_are_no_checkpoints_and_leftovers_go(parts, tmp_path):
    save(parts, tmp_path, 1)
    (tmp_path / "checkpoints" / "step_00000002").mkdir()
    (tmp_path / "checkpoints" / ".tmp_step_00000003_99").mkdir()
    (tmp_path / "checkpoints" / ".tmp_last_99").write_text("x")
    assert find_checkpoint(tmp_path).name == "step_00000001"
    remove_leftovers(tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".tmp_*"))


def test_a_damaged_checkpoint_says_what_to_do(parts, tmp_path, small):
    save(parts, tmp_path, 1)
    model_file = find_checkpoint(tmp_path) / "model.safetensors"
    model_file.write_bytes(model_file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="damaged") as caught:
        load_checkpoint(find_checkpoint(tmp_path), parts[0], parts[1])
    assert "delete that folder" in caught.value.fix


@pytest.mark.parametrize("file", ["safetensors", "torch", "json"])
def test_a_full_disk_stops_with_the_cause_and_leaves_the_last_checkpoint(parts, tmp_path, monkeypatch, file):
    save(parts, tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if file == "safetensors":
        monkeypatch.setattr(checkpoint, "save_tensors", full)
    elif file == "torch":
        monkeypatch.setattr(checkpoint.torch, "save", full)
    else:
        monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(ResourceError, match="is full") as caught:
        save(parts, tmp_path, 2)
    assert "MiB are free" in caught.value.why and "step_00000001" in caught.value.fix
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".tmp")] == []
    assert load_checkpoint(find_checkpoint(tmp_path), parts[0], parts[1]).step == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small file system needs root")
def test_a_really_full_file_system(small, tmp_path):
    import subprocess

    mount = tmp_path / "tiny"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(ResourceError, match="is full"):
            train(replace(small, checkpoint=replace(small.checkpoint, keep=50)), mount / "run", quiet=True)
        last = find_checkpoint(mount / "run")
        assert last is not None and json.loads((last / "state.json").read_text())["step"] >= 5
    finally:
        subprocess.run(["umount", mount], check=True)
