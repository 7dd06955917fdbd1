import errno
import json
import os
from dataclasses import replace

import pytest
import torch

from ibot.engine import checkpoint
from ibot.engine.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    mark_best_dense,
    read_centers,
    remove_leftovers,
    save_checkpoint,
)
from ibot.engine.loop import train
from ibot.engine.optimizer import build_optimizer
from ibot.errors import ResourceError, WeightsError
from ibot.method.model import StudentTeacher
from ibot.system import files
from ibot.types import RunState
from ibot.weights.read import load_weights


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
    return save_checkpoint(
        run, model, optimizer, RunState(step=step, images_seen=8 * step), config=config, **kwargs
    )


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


def test_centers_are_read_alone(parts, tmp_path):
    model, *_ = parts
    model.patch_center.value.normal_()
    folder = save(parts, tmp_path, 3)
    cls, patch = read_centers(folder)
    assert torch.equal(cls, model.cls_center.value)
    assert torch.equal(patch, model.patch_center.value)
    assert read_centers(tmp_path) is None


def test_the_newest_are_kept_and_the_protected(parts, tmp_path):
    for step in range(1, 8):
        save(parts, tmp_path, step, keep=2, protect=lambda step: step % 3 == 0)
    left = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert left == ["step_00000003", "step_00000006", "step_00000007"]
    assert (tmp_path / "checkpoints" / "last").read_text() == "step_00000007\n"


def test_the_checkpoint_of_the_best_patches_is_named_and_kept_until_there_is_a_better_one(
    parts, tmp_path
):
    mark = tmp_path / "checkpoints" / "best_dense"
    left = []
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5)):
        save(parts, tmp_path, step, keep=1, best_dense=best)
        left.append({int(path.name[5:]) for path in mark.parent.glob("step_*")})
        assert mark.is_file() == (best is not None)
        assert best is None or mark.read_text() == f"step_{best:08d}\n"
    assert left == [{1}, {2}, {2, 3}, {2, 4}, {5}, {5, 6}, {5, 7}]
    model, *_ = parts
    stored = load_weights(mark)
    assert stored.source == load_weights(mark.parent / "step_00000005").source
    assert stored.backbone.keys() == model.teacher.backbone.state_dict().keys()


def test_the_name_of_the_best_patches_never_outlives_their_checkpoint(parts, tmp_path, monkeypatch):
    mark = tmp_path / "checkpoints" / "best_dense"
    save(parts, tmp_path, 2, best_dense=2)
    monkeypatch.setattr(checkpoint, "_delete_old", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # as if killed before the old one goes
        save(parts, tmp_path, 4, keep=1, best_dense=4)
    assert mark.read_text() == "step_00000004\n" and len(list(mark.parent.glob("step_*"))) == 2
    for step in (None, 3):
        mark_best_dense(tmp_path, 2)
        assert mark.read_text() == "step_00000002\n"
        mark_best_dense(tmp_path, step)
        assert not mark.exists()


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
    for name in (".tmp_last_99", ".last.tmp"):  # of versions before, and of this one
        (tmp_path / "checkpoints" / name).write_text("x")
    assert find_checkpoint(tmp_path).name == "step_00000001"
    remove_leftovers(tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt"])
@pytest.mark.parametrize(
    "damage", [lambda content: content[:100], lambda content: b"", lambda content: b"no" * 100]
)
def test_a_damaged_checkpoint_says_what_to_do(parts, tmp_path, name, damage):
    save(parts, tmp_path, 1)
    file = find_checkpoint(tmp_path) / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsError, match="damaged") as caught:
        load_checkpoint(find_checkpoint(tmp_path), parts[0], parts[1])
    assert caught.value.why and "delete that folder" in caught.value.fix


@pytest.mark.parametrize("file", ["safetensors", "torch", "json"])
def test_a_full_disk_stops_with_the_cause_and_leaves_the_last_checkpoint(
    parts, tmp_path, monkeypatch, file
):
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


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small file system needs root"
)
def test_a_really_full_file_system(small, tmp_path):
    import subprocess

    mount = tmp_path / "tiny"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", mount], capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(ResourceError, match="is full"):
            train(
                replace(small, checkpoint=replace(small.checkpoint, keep=50)),
                mount / "run",
                quiet=True,
            )
        last = find_checkpoint(mount / "run")
        assert last is not None and json.loads((last / "state.json").read_text())["step"] >= 5
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_copy_without_the_folder_of_sharded_moments_is_refused(parts, tmp_path):
    model, optimizer, _ = parts
    save(parts, tmp_path, 7)
    file = find_checkpoint(tmp_path) / "training.pt"
    training = torch.load(file, weights_only=True)
    training["optimizer"]["state"] = None  # as sharded networks leave it
    torch.save(training, file)
    with pytest.raises(WeightsError, match="is damaged") as caught:
        load_checkpoint(find_checkpoint(tmp_path), model, optimizer)
    assert caught.value.why == "the folder optimizer is missing"


def test_both_moments_and_counts_and_both_centers_come_back(parts, tmp_path, small):
    model, optimizer, _ = parts
    model.patch_center.value.normal_()
    for p in model.teacher.parameters():
        p.data.add_(1.0)  # unlike the student
    save(parts, tmp_path, 7)
    other = StudentTeacher(small)
    other_optimizer = build_optimizer(other.student, small.optim)
    load_checkpoint(find_checkpoint(tmp_path), other, other_optimizer)
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())
    a, b = optimizer.state_dict(), other_optimizer.state_dict()
    assert a["param_groups"] == b["param_groups"] and a["state"].keys() == b["state"].keys()
    for i, state in a["state"].items():
        assert all(torch.equal(value, b["state"][i][name]) for name, value in state.items())
    assert not torch.equal(other.student.head.mlp[0].weight, other.teacher.head.mlp[0].weight)


class Scaler:
    def __init__(self, scale):
        self.scale = scale

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, state):
        self.scale = state["scale"]


def test_the_scaler_of_float16_comes_back_where_there_is_one(parts, tmp_path):
    save(parts, tmp_path, 1, scaler=Scaler(4096.0))
    again = Scaler(1.0)
    load_checkpoint(find_checkpoint(tmp_path), parts[0], parts[1], scaler=again)
    assert again.scale == 4096.0
    load_checkpoint(find_checkpoint(tmp_path), parts[0], parts[1])  # resumed in float32
    save(parts, tmp_path, 2)
    load_checkpoint(find_checkpoint(tmp_path), parts[0], parts[1], scaler=again)  # or the other way
    assert again.scale == 4096.0


def test_everything_is_on_the_disk_before_the_folder_has_its_name_and_the_state_is_written_last(
    parts, tmp_path, monkeypatch
):
    """What a process that dies between two steps leaves behind is no checkpoint, or a whole one."""
    steps, folder = [], tmp_path / "checkpoints"
    final = folder / "step_00000003"
    names = {"model.safetensors", "teacher.safetensors", "training.pt", "state.json"}
    plain_sync, plain_rename, plain_replace = (
        checkpoint.sync,
        type(folder).rename,
        type(folder).replace,
    )
    plain_text = type(folder).write_text

    def write_text(path, *args, **kwargs):
        steps.append(("write", path.name, {file.name for file in path.parent.iterdir()}))
        return plain_text(path, *args, **kwargs)

    def sync(path):
        steps.append(("sync", path.name, final.exists()))
        plain_sync(path)

    def rename(path, target):
        steps.append(("rename", target, {file.name for file in path.iterdir()}))
        return plain_rename(path, target)

    def replace_(path, target):
        steps.append(("replace", target, final.exists()))
        return plain_replace(path, target)

    for module in (checkpoint, files):
        monkeypatch.setattr(module, "sync", sync)
    monkeypatch.setattr(type(folder), "rename", rename)
    monkeypatch.setattr(type(folder), "replace", replace_)
    monkeypatch.setattr(type(folder), "write_text", write_text)
    assert save(parts, tmp_path, 3) == final
    state = next(i for i, step in enumerate(steps) if step[:2] == ("write", "state.json"))
    assert steps[state][2] == names - {"state.json"}  # the others were there
    renamed = steps.index(("rename", final, names))
    before = [step[1] for step in steps[:renamed] if step[0] == "sync"]
    assert set(before[:-1]) == names and before[-1].startswith(".tmp_step_00000003")
    assert all(step[2] is False for step in steps[:renamed] if step[0] == "sync")
    last = steps.index(("replace", folder / "last", True))
    synced = [step[1] for step in steps[renamed:last] if step[0] == "sync"]
    assert synced[0] == "checkpoints" and synced[1] == ".last.tmp"
    assert renamed < last and sorted(path.name for path in folder.iterdir()) == [
        "last",
        "step_00000003",
    ]


def test_a_checkpoint_says_what_it_is_of(parts, tmp_path, small):
    from safetensors import safe_open

    from ibot.config.override import from_plain, to_plain

    final = save(parts, tmp_path, 12)
    stored = json.loads((final / "state.json").read_text())
    assert stored["step"] == 12 and from_plain(stored["config"]) == small
    for name in ("model", "teacher"):
        with safe_open(final / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
        assert json.loads(metadata["config"]) == to_plain(small) and metadata["step"] == "12"


def test_what_a_killed_save_of_the_same_process_left_is_replaced(parts, tmp_path):
    half = tmp_path / "checkpoints" / f".tmp_step_00000002_{os.getpid()}"
    half.mkdir(parents=True)
    (half / "half").write_text("x")
    final = save(parts, tmp_path, 2)
    assert not half.exists() and not (final / "half").exists()


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_never_less_than_the_newest_is_kept(parts, tmp_path, keep):
    for step in (9, 10, 11, 100):
        save(parts, tmp_path, step, keep=keep)
    left = sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step_*"))
    assert (
        left == [9, 10, 11, 100][-max(1, keep) :]
        and find_checkpoint(tmp_path).name == "step_00000100"
    )


def test_three_are_kept_unless_it_is_said_and_none_is_found_before_the_first(parts, tmp_path):
    assert find_checkpoint(tmp_path) is None
    for step in range(1, 6):
        save(parts, tmp_path, step)
    assert [p.name[-1] for p in sorted((tmp_path / "checkpoints").glob("step_*"))] == [
        "3",
        "4",
        "5",
    ]


def test_an_error_that_is_no_full_disk_is_not_called_one(parts, tmp_path, monkeypatch):
    save(parts, tmp_path, 1)

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(OSError, match="Input/output"):
        save(parts, tmp_path, 2)
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_the_error_of_a_full_disk_says_the_size_of_a_checkpoint_and_where_the_run_resumes(
    parts, tmp_path
):
    first = checkpoint.disk_full(tmp_path, 3 * 2**20)
    assert "a checkpoint takes 3.0 MiB" in first.why and "resumes from the start" in first.fix
    final = save(parts, tmp_path, 4)
    size = sum(file.stat().st_size for file in final.iterdir()) / 2**20
    error = checkpoint.disk_full(tmp_path, 3 * 2**30)
    assert (
        f"a checkpoint takes {size:.1f} MiB" in error.why
        and "resumes from step_00000004" in error.fix
    )
    assert str(tmp_path) in error.what


def test_a_disk_full_before_the_first_checkpoint_is_told_with_what_one_takes(
    parts, tmp_path, monkeypatch
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = checkpoint.checkpoint_bytes(parts[0], parts[1])
    with monkeypatch.context() as patched, pytest.raises(ResourceError, match="is full") as caught:
        patched.setattr(checkpoint, "save_tensors", full)
        save(parts, tmp_path, 1)
    assert f"a checkpoint takes {expected / 2**20:.1f} MiB, " in caught.value.why
    written = sum(file.stat().st_size for file in save(parts, tmp_path, 1).iterdir())
    assert 0.8 * written < expected <= written  # but for names and settings
