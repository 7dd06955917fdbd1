"""Networks of which every process holds a part, against whole ones."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commands import script_in_several
from several import run_forked
from torch import nn

from ibot.config.override import apply, to_plain
from ibot.data.masks import masks_from_map
from ibot.engine.checkpoint import checkpoints_of, find_checkpoint
from ibot.engine.loop import train
from ibot.engine.moments import load_moments, save_moments
from ibot.engine.optimizer import build_optimizer
from ibot.engine.update import Update
from ibot.engine.wrapping import averaging, place, whole_backbone
from ibot.errors import ResourceError, WeightsError
from ibot.method.model import StudentTeacher
from ibot.system.distributed import init_processes, shutdown
from ibot.system.jsonl import read_jsonl
from ibot.system.processes import launched_processes
from ibot.system.sharding import is_part, local, whole_tensors
from ibot.types import Batch, StepValues
from ibot.weights.read import load_weights

CPU = torch.device("cpu")
VALUES = {"lr": 0.5, "weight_decay": 0.04, "momentum": 0.9, "teacher_temp": 0.04}
STEPS = (
    StepValues(**VALUES, patch_temp=0.05, freeze_last_layer=True),
    StepValues(**VALUES, patch_temp=0.05, freeze_last_layer=False),
)


def part_of_batch(rank, count):
    """Images of which the first half hides most patches, the second none: every second one of
    them, or other numbers of places to predict would be equal in all processes.
    """
    generator = torch.Generator().manual_seed(3)
    hidden = torch.rand(2, 4, 16, generator=generator) < 0.7
    hidden[:, 1::2] = False
    sizes = ((2, 32), (2, 16))
    views = [torch.randn(n, 4, 3, size, size, generator=generator) for n, size in sizes]
    masks = masks_from_map(hidden[:, rank::count])
    return Batch(*[v[:, rank::count] for v in views], masks, np.arange(4)[rank::count])


def updated(config, micro_batches=1):
    """What two steps make of networks, and the norms before clipping."""
    processes = launched_processes()
    torch.manual_seed(0)
    model = StudentTeacher(config)
    place(model, config, processes, CPU)
    made = Update(
        model=model,
        student=averaging(model.student, processes, CPU),
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
    )
    batch = part_of_batch(processes.rank, processes.world_size)
    norms = [made.step([batch] * micro_batches, values).grad_norms for values in STEPS]
    made.student = model.student
    backbone = whole_backbone(model, config, CPU)
    return {
        "student": whole_tensors(model.student),
        "teacher": whole_tensors(model.teacher),
        "backbone": dict(backbone.state_dict()),
        "norms": {
            f"{i}.{name}": norm for i, step in enumerate(norms) for name, norm in step.items()
        },
        "centers": {"cls": model.cls_center.value, "patch": model.patch_center.value},
        "held": sum(local(p).numel() for p in model.parameters()),
        "parts": all(is_part(p) for p in model.parameters()),
        "masked": len(batch.masks.index),
    }


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("lars", marks=pytest.mark.slow)])
def test_processes_with_unequal_numbers_of_masked_patches_do_what_one_does(
    small, tmp_path, optimizer
):
    # Not AdamW: where a gradient is zero, as a key's bias has, it makes steps of rounding errors.
    settings = [f"optim.name={optimizer}", "model.drop_path=0", "method.koleo_weight=0.1"]
    config = apply(small, [*settings, "optim.clip=0.05", "head.norm_last_layer=false"])
    whole = updated(config, 2)

    def work(rank):
        processes = init_processes(CPU)
        for shard in ("none", "fsdp"):
            mine = apply(config, [f"system.shard={shard}"])
            torch.save(updated(mine, 2), tmp_path / f"{shard}{processes.rank}.pt")
        shutdown()

    codes, errors = run_forked(work, tmp_path, seconds=300)
    assert codes == [0, 0], errors
    masked = []
    for shard in ("none", "fsdp"):
        for rank in range(2):
            got = torch.load(tmp_path / f"{shard}{rank}.pt")
            assert got["parts"] == (shard == "fsdp")
            # What a first dimension of one cannot be cut into lies in one process.
            assert (
                got["held"] < 0.6 * whole["held"] if got["parts"] else got["held"] == whole["held"]
            )
            masked.append(got["masked"])
            for kind in ("norms", "centers", "student", "teacher", "backbone"):
                for name, value in whole[kind].items():
                    torch.testing.assert_close(
                        got[kind][name],
                        value,
                        rtol=1e-4,
                        atol=2e-6,
                        msg=lambda m, at=(shard, kind, name): f"{at}: {m}",
                    )
    assert whole["masked"] == sum(masked[:2]) and masked[0] > 0 and masked[1] == 0


CODE = """
import json, os, signal, sys, time
from pathlib import Path
from ibot.config.override import from_plain
from ibot.engine import loop, moments, update
folder, death = Path(sys.argv[1]), sys.argv[2:]
config = from_plain(json.loads((folder / "config.json").read_text()))
rank = int(os.environ["RANK"])
calls = []
def dying(original):
    def call(*given, **named):
        calls.append(1)
        if len(calls) == int(death[2]) and rank == int(death[1]):
            (folder / "died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)
    return call
if death and death[0] == "saving":
    moments.save_moments = dying(moments.save_moments)
elif death:
    update.Update.step = dying(update.Update.step)
loop.train(config, folder / "run", command="test", quiet=True)
"""


def train_together(config, folder, count, *death):
    """Train in `folder`/run; what each process ended with."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_plain(config)))
    (folder / "script.py").write_text(CODE)
    script = folder / "script.py"
    return [one.ended(600) for one in script_in_several(count, script, folder, *death)]


def losses(run):
    rows = read_jsonl(run / "metrics.jsonl")
    return np.array([[row["cls_loss"], row["patch_loss"], row["koleo_loss"]] for row in rows])


def trained(config, folder, count, *changes):
    """Losses of the run in `folder`, trained (on) by so many processes."""
    mine = apply(config, changes)
    if count == 1:
        train(mine, folder / "run", quiet=True)
    else:
        for one in train_together(mine, folder, count):
            assert one.returncode == 0, one.stderr
    return losses(folder / "run")


@pytest.fixture
def steady(small):
    return apply(
        small,
        [
            "train.length=6 steps",
            "log.every=1",
            "checkpoint.every=3 steps",
            "method.koleo_weight=0.1",
        ],
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_two_sharded_processes_follow_one_which_goes_on_from_their_checkpoint(steady, tmp_path):
    whole = trained(steady, tmp_path / "one", 1)
    half = ["train.max_steps=3", "system.shard=fsdp"]
    trained(steady, tmp_path / "two", 2, *half)
    run = tmp_path / "two" / "run"
    parts = list((find_checkpoint(run) / "optimizer").glob("*.distcp"))
    assert len(parts) == 2 and load_weights(run).backbone  # whole networks, for whoever asks
    files_alone = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(find_checkpoint(files_alone) / "optimizer")
    with pytest.raises(WeightsError, match="is damaged") as caught:
        train(steady, files_alone, quiet=True)
    assert caught.value.why == "the folder optimizer is missing"
    after = trained(steady, tmp_path / "two", 1)
    assert len(after) == len(whole) == 6
    np.testing.assert_allclose(after, whole, rtol=1e-4)
    assert not (find_checkpoint(run) / "optimizer").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_checkpoints_load_at_any_number_of_processes(steady, tmp_path):
    config = apply(steady, ["train.length=12 steps", "optim.clip=0.3"])
    whole = trained(config, tmp_path / "one", 1)
    folder, fsdp = tmp_path / "many", "system.shard=fsdp"
    for count, steps, shard in ((4, 3, fsdp), (2, 6, fsdp), (1, 9, ""), (4, 12, fsdp)):
        changes = [f"train.max_steps={steps}", *([shard] if shard else [])]
        got = trained(config, folder, count, *changes)
        np.testing.assert_allclose(got, whole[:steps], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
def test_losses_are_equal_for_any_number_of_processes_sharded_or_not(steady, tmp_path):
    config = apply(steady, ["train.length=50 steps", "checkpoint.every=50 steps"])
    whole = trained(config, tmp_path / "one", 1)
    assert len(whole) == 50
    for count in (2, 4):
        for shard in ("none", "fsdp"):
            got = trained(config, tmp_path / f"{shard}{count}", count, f"system.shard={shard}")
            np.testing.assert_allclose(got, whole, rtol=1e-4, err_msg=f"{count} {shard}")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("death", "rank"), [("saving", 0), ("saving", 1), ("step", 1)])
def test_a_killed_process_ends_the_others_and_leaves_the_checkpoint_before(
    steady, tmp_path, death, rank
):
    config = apply(steady, ["system.shard=fsdp"])
    ended = train_together(config, tmp_path, 2, death, rank, 2 if death == "saving" else 5)
    after = time.time() - float((tmp_path / "died").read_text())
    killed, other = ended[rank], ended[1 - rank]
    assert killed.returncode == -signal.SIGKILL
    assert other.returncode == ResourceError.exit_code
    assert "a process was ended from outside" in other.stderr and after < 30
    run = tmp_path / "run"
    assert [path.name for path in checkpoints_of(run)] == ["step_00000003"]
    assert (run / "checkpoints" / "last").read_text() == "step_00000003\n"
    assert len(trained(config, tmp_path, 2)) == 6
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["last", "step_00000003", "step_00000006"]  # no leftovers


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("shard", ["none", "fsdp"])
def test_torchrun_starts_again_where_a_process_was_lost(steady, tmp_path, shard):
    config = apply(steady, [f"system.shard={shard}"])
    (tmp_path / "config.json").write_text(json.dumps(to_plain(config)))
    first = 'if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":\n    death = ()\n'
    before, after = CODE.split("if death and")
    (tmp_path / "script.py").write_text(f"{before}{first}if death and{after}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", "--max-restarts=1", tmp_path / "script.py", tmp_path),
            *("step", "1", "5"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    run = tmp_path / "run"
    assert done.returncode == 0 and (tmp_path / "died").exists(), done.stderr
    events = [event["event"] for event in read_jsonl(run / "events.jsonl")]
    assert events.count("resume") == 1
    np.testing.assert_allclose(losses(run), trained(steady, tmp_path / "one", 1), rtol=1e-4)


@pytest.fixture
def moments(tmp_path):
    """An optimizer after a step, and the folder of what it remembers."""
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    save_moments(optimizer, tmp_path / "optimizer")
    return optimizer, tmp_path / "optimizer"


def test_what_an_optimizer_remembers_comes_back(moments):
    optimizer, folder = moments
    stored, wanted = load_moments(optimizer, folder), optimizer.state_dict()["state"]
    assert stored.keys() == wanted.keys()
    for index, state in wanted.items():
        assert stored[index].keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(stored[index][name], value)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_no_code_of_a_list_of_tensors_runs(moments, tmp_path, monkeypatch):
    optimizer, folder = moments
    monkeypatch.chdir(tmp_path)
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"names posix\.mkdir"):
        load_moments(optimizer, folder)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_damaged_parts_are_refused(moments, name):
    optimizer, folder = moments
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_moments(optimizer, folder)
