"""What a step tells of its targets: sums over rows, which a loss may hand over a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ibot.method.losses import entropy
from ibot.method.model import StudentOutput, TeacherOutput
from ibot.models.head import Scored
from ibot.system.distributed import sum_over_processes
from ibot.types import Masks


class TargetSums:
    """Sums over rows of target probabilities."""

    def __init__(self, size: int, like: Tensor, weight: Tensor | None = None) -> None:
        """Take K, a tensor of the device and type, and how much each row counts [R] (none: 1)."""
        self.mass = like.new_zeros(size)
        """[K], sum of the rows."""
        self.entropy = like.new_zeros(())
        """Weighted sum of the rows' entropies in nats."""
        self.prototypes = like.new_zeros(size, dtype=torch.int64)
        """[K], rows whose largest entry it is."""
        self.num_rows = 0
        self._weight = weight

    def add(self, probs: Tensor, part: slice | None = None) -> None:
        """Targets [..., r, K] of a part of the R rows, or of all."""
        entropies = entropy(probs)
        if self._weight is not None:
            entropies = entropies * self._weight[part if part is not None else slice(None)]
        self.entropy += entropies.sum()
        self.mass += probs.flatten(0, -2).sum(dim=0)
        largest = probs.argmax(dim=-1).flatten()
        self.prototypes.index_add_(0, largest, torch.ones_like(largest))
        self.num_rows += len(largest)


@torch.no_grad()
def observations(
    teacher: TeacherOutput,
    student: StudentOutput,
    cls: TargetSums,
    patch: TargetSums,
    masks: Masks,
    weight: Tensor,
) -> dict[str, Tensor]:
    """Numbers that say how the training does; means over processes are those of one process.

    `weight`: [M], of the patches in the loss, which the entropies of `patch` were weighted by.
    """
    masked = weight.sum().round()  # the weights of a view sum to 1
    counts = [weight.new_full((), n) for n in (cls.num_rows, patch.num_rows, 1)]
    own = [cls.mass, patch.mass, masked, torch.stack(counts)]
    cls_sum, patch_sum, masked, (num_rows, num_patches, processes) = sum_over_processes(own)
    # The patch loss counts views without a mask as zero; per hidden view it compares with ln K.
    masked_views = masked.clamp(min=1) / processes
    last_global = teacher.features.shape[0] - 1
    agree = _prototypes(teacher.cls, 0) == _prototypes(student.cls, last_global)
    return {
        "teacher_entropy": cls.entropy / cls.num_rows,
        "patch_entropy": patch.entropy / masked_views,
        "patch_views": masks.loss_views / masked_views,
        "marginal_entropy": entropy(cls_sum / num_rows),
        "patch_marginal_entropy": entropy(patch_sum / num_patches.clamp(min=1)),
        "agreement": agree.float().mean(),
        "cls_prototypes": cls.prototypes,
        "patch_prototypes": patch.prototypes,
        "features": teacher.features.flatten(0, 1),
        "masked_fraction": weight.new_full((), len(masks.index) / masks.map.numel()),
    }


def _prototypes(logits: Tensor | Scored, view: int) -> Tensor:
    """int64 [B], the prototype with the largest logit of each image of a view."""
    if isinstance(logits, Scored):
        return Scored(logits.rows[view], logits.weight).logits().argmax(-1)
    return logits[view].argmax(-1)
