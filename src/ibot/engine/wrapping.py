"""How networks are laid over processes: the one place that says what comes in which order.

Of every block, in place, so that names of parameters stay: what changes its forward pass first,
then its shards, whose gathering happens around that pass; of whole networks the averaging of
gradients last, after all weights are in.
"""

from __future__ import annotations

import torch
from torch import nn

from ibot.config.schema import Config
from ibot.engine.blocks import prepare_blocks
from ibot.method.model import StudentTeacher
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone
from ibot.system.distributed import check_norms, wrap_student
from ibot.system.processes import Processes
from ibot.system.sharding import is_sharded, shard, whole_tensors


def place(
    model: StudentTeacher, config: Config, processes: Processes, device: torch.device
) -> None:
    """Bring networks from the CPU to the device: whole, or by `system.shard` a part of each.

    Before the optimizer is built: sharded parameters are new tensors.
    """
    check_norms(model.student, processes, device)
    prepare_blocks(model, config.system, device)
    if config.system.shard == "fsdp" and processes.world_size > 1:
        for network in (model.student, model.teacher):
            shard(network, network.backbone.blocks_for_sharding(), device)
    model.to(device)


def averaging(student: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """The student whose gradients are averaged over processes; a sharded one does so by itself."""
    return student if is_sharded(student) else wrap_student(student, processes, device)


def whole_backbone(model: StudentTeacher, config: Config, device: torch.device) -> Backbone:
    """The teacher's backbone for evaluations, in which processes need not call it equally often.

    Of a sharded teacher a copy, gathered anew: every process must ask at once.
    """
    own = model.teacher.backbone
    if not is_sharded(own):
        return own
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(config.model, config.augment.global_size, 0.0, False)
    backbone.load_state_dict(whole_tensors(own))
    return backbone.requires_grad_(False).train(own.training).to(device)
