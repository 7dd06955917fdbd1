"""Networks of which every process holds a part (FSDP2), and what is asked of such parts.

A sharded parameter is a `DTensor`: torch cuts its first dimension into one part for each process,
empty ones where rows do not suffice. What works element by element (optimizer, moving average)
takes the parts alone; nothing here is imported or costs anything where no network is sharded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ibot.system.distributed import sum_in_place

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(network: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Leave this process a part of every parameter, on `device`; in place, after the group is met.

    A block is whole from before its forward (backward) pass to behind it, the rest as long as
    `network.forward` runs, and of a trained network until its backward pass is over. Parameters
    and the sums of gradients stay as wide as they are: `autocast` narrows what it narrows without
    shards, no more.

    Args:
        network: its forward pass must be called as `network(...)`, those of blocks as `block(...)`.
        blocks: parts of it, gathered one by one.
        device: of the process; weights may wait on the CPU, so that no device holds all of them.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    trained = any(p.requires_grad for p in network.parameters())
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # A teacher that stayed whole after its pass would not see its own moving average.
    fully_shard(network, mesh=mesh, reshard_after_forward=not trained)
    assert isinstance(network, FSDPModule)
    if device.type != "cuda" or not dist.is_nccl_available():  # gloo knows sums, no means
        network.set_force_sum_reduction_for_comms(True)


def is_part(tensor: Tensor) -> bool:
    """Whether it is spread over the processes."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def is_sharded(network: nn.Module) -> bool:
    """Whether parameters of a network are spread over the processes."""
    return any(is_part(p) for p in network.parameters())


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """What this process holds of it, in the same memory; of a plain tensor all."""
    part: Any = tensor
    return part.to_local() if is_part(tensor) else tensor


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All of it; every process must ask at once."""
    part: Any = tensor
    return part.full_tensor() if is_part(tensor) else tensor


def whole_tensors(network: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Copies of the tensors of a network by name, gathered one by one; all processes must ask.

    A norm used twice has both names. Without `keep` nothing stays here: for the processes that
    only send. Of a sharded network they lie in the memory of the CPU: no device holds all.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        full = whole(tensor).detach()
        if keep:
            tensors[name] = (full.cpu() if is_part(tensor) else full).clone().contiguous()
    return tensors


def part_like(tensor: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as `own` is: its part, if that is one; nothing is sent."""
    if not is_part(own):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there: DTensor = own  # pyright: ignore[reportAssignmentType]
    tensor = tensor.to(there.device)
    return distribute_tensor(tensor, there.device_mesh, there.placements, src_data_rank=None)


def load_whole(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors, of which a sharded network takes its parts.

    Raises RuntimeError for other names or shapes, as torch does.
    """
    own = network.state_dict()
    parts = {
        name: part_like(tensor, own[name])
        if name in own and tensor.shape == own[name].shape
        else tensor
        for name, tensor in tensors.items()
    }
    network.load_state_dict(parts)


def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """The l2 norm [n] of each tensor; of spread ones over all their parts, in one collective."""
    norms = torch.stack(torch._foreach_norm([local(tensor) for tensor in tensors]))
    if not any(is_part(tensor) for tensor in tensors):
        return norms
    # Squares in float64: float32 would overflow where the norm itself does not.
    return sum_in_place(norms.double().square()).sqrt().to(norms.dtype)


def load_part(state: Mapping[str, Any], own: Tensor) -> dict[str, Any]:
    """What an optimizer remembers of a whole parameter, as that of its part `own`."""
    return {
        name: part_like(value, own)
        if isinstance(value, Tensor) and value.shape == own.shape
        else value
        for name, value in state.items()
    }
