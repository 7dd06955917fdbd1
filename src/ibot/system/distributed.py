"""What several processes do together: sums, votes, averaged gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ibot.errors import UserError
from ibot.system.processes import Processes, launched_processes
from ibot.system.watch import fresh_store, watched

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""A process that waits longer for the others gives up, instead of hanging for ever."""


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the other processes and leave them at the end; an error in the body ends all."""
    with watched():
        yield init_processes(device)
        shutdown()  # not after an error: it might wait for the others


def init_processes(device: torch.device) -> Processes:
    """Join the other processes, if there are any: NCCL for tensors of GPUs, gloo for others."""
    processes = launched_processes()
    if device.type == "cuda":
        torch.cuda.set_device(device if device.index is not None else processes.local_rank)
    if processes.world_size > 1:
        host = f"[{processes.address}]" if ":" in processes.address else processes.address
        store = fresh_store()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo",
            init_method=f"tcp://{host}:{processes.port}" if store is None else None,
            store=store,
            rank=processes.rank,
            world_size=processes.world_size,
            timeout=TIMEOUT,
        )
    return processes


def shutdown() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_equal(facts: Mapping[str, object]) -> None:
    """Raise UserError where processes differ in what decides when they work together."""
    everyone = gather(dict(facts))
    for name in facts:
        values = [theirs[name] for theirs in everyone]
        odd = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if odd is not None:
            raise UserError(
                f"the processes differ in {name}",
                why=f"{values[0]} in process 0, {values[odd]} in process {odd}",
                fix="give all of them the same command, the same images and the same folders",
            )


def several_processes() -> bool:
    """Whether this process works together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(own: T) -> list[T]:
    """`own` of every process, by rank."""
    if not several_processes():
        return [own]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return parts


def barrier() -> None:
    """Wait for all processes."""
    if several_processes():
        dist.barrier()


def any_true(flag: bool) -> bool:
    """Whether `flag` is set on any process; they vote on the CPU, so that no GPU is waited for."""
    if not several_processes():
        return flag
    return sum_in_place(torch.tensor(float(flag))).item() > 0


def sum_in_place(tensor: Tensor) -> Tensor:
    """Turn a tensor into its sum over all processes; the same tensor is returned."""
    if several_processes():
        dist.all_reduce(tensor)
    return tensor


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_in_place(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return sum_in_place(grads[0].clone(memory_format=torch.contiguous_format))


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, through which gradients flow to each of them.

    Each gets the gradient of the sum of all processes' losses.
    """
    return _Summed.apply(tensor) if several_processes() else tensor


def largest_in_place(tensor: Tensor) -> Tensor:
    """Turn each entry into its largest value over all processes; the same tensor is returned."""
    if several_processes():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


@torch.no_grad()
def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums of tensors of any shapes over all processes, in one collective; no gradient flows.

    The tensors themselves when this process is alone.
    """
    if not several_processes():
        return list(tensors)
    flat = sum_in_place(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def check_norms(student: nn.Module, processes: Processes, device: torch.device) -> None:
    """Raise UserError for batch norms over several processes where torch has none."""
    if (
        processes.world_size > 1
        and device.type != "cuda"
        and any(isinstance(part, nn.SyncBatchNorm) for part in student.modules())
    ):
        raise UserError(
            "head.norm=syncbn runs on GPUs only", fix="use head.norm=ln or none on CPUs"
        )


def wrap_student(student: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """The student with gradients averaged over processes; the student itself for a single one."""
    if processes.world_size == 1:
        return student
    check_norms(student, processes, device)
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(
        student, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
    )
