"""What several processes do together; whole trainings are in engine/test_distributed.py."""

import time
from types import SimpleNamespace

import pytest
import torch
from several import run_forked

from ibot.errors import UserError
from ibot.system import distributed
from ibot.system.distributed import (
    any_true,
    gather,
    joined,
    largest_in_place,
    sum_in_place,
    sum_over_processes,
    wrap_student,
)
from ibot.system.processes import Processes, launched_processes


def test_batch_norms_of_all_processes_are_refused_without_gpus(monkeypatch):
    student = torch.nn.Sequential(torch.nn.SyncBatchNorm(3))
    with pytest.raises(UserError, match="runs on GPUs only"):
        wrap_student(student, Processes(0, 2, 0), torch.device("cpu"))
    assert wrap_student(student, Processes(0, 1, 0), torch.device("cpu")) is student
    monkeypatch.setattr(
        distributed, "DistributedDataParallel", lambda network, device_ids, **options: device_ids
    )
    gpu = torch.device("cuda", 1)
    assert wrap_student(student, Processes(0, 2, 1), gpu) == [gpu]


def test_launch_variables_of_torchrun_and_slurm_are_understood():
    assert launched_processes({}).world_size == 1
    torchrun_like = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "x"}
    got = launched_processes(torchrun_like)
    assert (got.rank, got.world_size, got.local_rank, got.is_main) == (3, 4, 1, False)
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert launched_processes({**slurm, "MASTER_ADDR": "x"}).is_main
    with pytest.raises(UserError, match="MASTER_ADDR"):
        launched_processes(slurm)


def test_a_single_process_sums_nothing_and_copies_nothing():
    tensor = torch.randn(3)
    assert sum_over_processes([tensor])[0] is tensor
    assert sum_in_place(tensor) is tensor and largest_in_place(tensor) is tensor
    assert gather("own") == ["own"] and any_true(True)


def test_sums_of_several_tensors_take_one_collective_and_keep_their_shapes(monkeypatch):
    calls = []

    def all_reduce(tensor, op=None):
        calls.append(op)
        tensor.copy_(tensor.clamp(min=0.5) if op == "max" else 3 * tensor)

    fake = SimpleNamespace(all_reduce=all_reduce, ReduceOp=SimpleNamespace(MAX="max"))
    monkeypatch.setattr(distributed, "several_processes", lambda: True)
    monkeypatch.setattr(distributed, "dist", fake)
    first, second = torch.ones(2, 3), torch.tensor(2.0, requires_grad=True)
    summed = sum_over_processes([first, second])
    assert calls == [None] and [part.tolist() for part in summed] == [[[3.0] * 3] * 2, 6.0]
    assert first.eq(1).all() and not summed[1].requires_grad
    assert sum_in_place(first).eq(3).all() and first.eq(3).all()
    assert largest_in_place(torch.tensor([0.0, 1.0])).tolist() == [0.5, 1.0] and calls[-1] == "max"
    assert any_true(True) and not any_true(False)


@pytest.mark.distributed
def test_processes_that_have_parted_can_join_again(tmp_path):
    def work(rank):
        for turn in range(3):
            if turn and rank == turn % 2:
                time.sleep(0.1)  # the other one must not find the places of the turn before
            with joined(torch.device("cpu")):
                assert gather((turn, rank)) == [(turn, 0), (turn, 1)]

    codes, errors = run_forked(work, tmp_path)
    assert codes == [0, 0], errors
