"""One process, or several started by torchrun or SLURM; launch variables are read, never parsed from arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ibot.errors import UserError

TIMEOUT = timedelta(minutes=10)
"""A process that waits longer for the others gives up, instead of hanging for ever."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def launched_processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """Read the launch variables of torchrun, else those of SLURM, else one process. Raises UserError."""
    for rank, world, local in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
        if rank in environment and world in environment:
            if int(environment[world]) > 1 and "MASTER_ADDR" not in environment:
                raise UserError(
                    f"{world}={environment[world]} processes, but no MASTER_ADDR and MASTER_PORT",
                    fix="start with torchrun, or export MASTER_ADDR (the first host) and MASTER_PORT (a free port)",
                )
            return Processes(int(environment[rank]), int(environment[world]), int(environment.get(local, "0")))
    return Processes()


def init_processes(device: torch.device) -> Processes:
    """Join the other processes (NCCL on GPUs, gloo on CPUs); nothing is started for a single one."""
    processes = launched_processes()
    if device.type == "cuda":
        torch.cuda.set_device(device if device.index is not None else processes.local_rank)
    if processes.world_size > 1:
        backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, rank=processes.rank, world_size=processes.world_size, timeout=TIMEOUT)
    return processes


def shutdown() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def any_true(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any process."""
    if not dist.is_initialized():
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return votes.item() > 0


def sum_over_processes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Sums of tensors of equal shapes over all processes, as float64, in one collective."""
    flat = torch.cat([tensor.double().flatten() for tensor in tensors])
    if dist.is_initialized():
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def wrap_student(student: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """The student with gradients averaged over processes; the student itself for a single one."""
    if processes.world_size == 1:
        return student
    if any(isinstance(part, nn.SyncBatchNorm) for part in student.modules()) and device.type != "cuda":
        raise UserError("head.norm=syncbn runs on GPUs only", fix="use head.norm=ln or none on CPUs")
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(student, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)
