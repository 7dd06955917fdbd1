"""One micro-batch through student and teacher: the paper's algorithm 1 up to the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ibot.config.schema import MethodConfig
from ibot.method.fused import RowFunctions, fused_cls_loss, fused_patch_loss, fusing
from ibot.method.gather import gather_rows
from ibot.method.losses import cls_loss, koleo_loss, patch_loss
from ibot.method.model import StudentOutput, StudentTeacher, TeacherOutput
from ibot.method.observed import TargetSums, observations
from ibot.method.targets import Targets, targets_of
from ibot.models.head import Scored
from ibot.types import Batch, Masks, StepValues


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The loss of one micro-batch and what the health monitor reads."""

    loss: Tensor
    metrics: dict[str, Tensor]
    """Detached, on the device."""
    student: StudentOutput
    teacher: TeacherOutput


def training_step(
    model: StudentTeacher,
    student: nn.Module,
    batch: Batch,
    values: StepValues,
    method: MethodConfig,
    observe: bool = True,
) -> StepOutput:
    """Loss of one micro-batch (equations 2 and 3, summed); the centers remember mean logits.

    `student` is `model.student` or its distributed wrapper. The targets use the centers of the step
    before; call `update_centers` after the last micro-batch. With `observe` the metrics hold more
    than the losses.
    """
    if not values.hides_patches:
        batch = replace(batch, masks=batch.masks.emptied())
    fused = fusing(model.student.head, model.cls_center.value)
    scored = {} if fused is None else {"scored": True}
    views = batch.global_views, batch.masks, batch.local_views
    # Sinkhorn-Knopp balances all rows at once.
    teacher: TeacherOutput = model.teacher(*views, **(scored if method.targets == "center" else {}))
    output: StudentOutput = student(*views, batch.drop, **scored)
    targets = targets_of(model, teacher, batch, values, method)
    weight = loss_weight(batch.masks).to(teacher.patch_mean.dtype)
    seen = _sums(output, weight) if observe else (None, None)
    given = output, targets, weight, batch.masks.loss_views, method.student_temp, seen
    cls, patch = _plain_losses(*given) if fused is None else _fused_losses(*given, fused)
    loss = method.cls_weight * cls + method.patch_weight * patch
    metrics = {"cls_loss": cls, "patch_loss": patch}
    if method.koleo_weight:
        metrics["koleo_loss"] = koleo = koleo_loss(gather_rows(output.features))
        loss = loss + method.koleo_weight * koleo
    num_views = batch.masks.num_views
    model.cls_center.add(teacher.cls_mean, num_views)
    model.patch_center.add(teacher.patch_mean, num_views)
    if seen[0] is not None and seen[1] is not None:
        metrics.update(observations(teacher, output, *seen, batch.masks, weight))
    metrics = {name: value.detach() for name, value in metrics.items()}
    return StepOutput(loss, metrics, output, teacher)


def loss_weight(masks: Masks) -> Tensor:
    """Weights of all patches in the loss, those of local views last."""
    return masks.weight if masks.local is None else torch.cat([masks.weight, masks.local.weight])


_Seen = tuple[TargetSums, TargetSums] | tuple[None, None]


def _sums(student: StudentOutput, weight: Tensor) -> _Seen:
    cls, patch = (
        len(logits.weight) if isinstance(logits, Scored) else logits.shape[-1]
        for logits in (student.cls, student.patch)
    )
    return TargetSums(cls, weight), TargetSums(patch, weight, weight)


def _plain_losses(
    student: StudentOutput,
    targets: tuple[Targets, Targets],
    weight: Tensor,
    num_views: int,
    temp: float,
    seen: _Seen,
) -> tuple[Tensor, Tensor]:
    """Class loss and patch loss of logits that exist as a whole."""
    assert isinstance(student.cls, Tensor) and isinstance(student.patch, Tensor)
    with torch.no_grad():
        cls, patch = (target.probs() for target in targets)
        for sums, probs in zip(seen, (cls, patch), strict=True):
            if sums is not None:
                sums.add(probs)
    of_patches = patch_loss(student.patch, patch, weight, num_views, temp)
    return cls_loss(student.cls, cls, temp), of_patches


def _fused_losses(
    student: StudentOutput,
    targets: tuple[Targets, Targets],
    weight: Tensor,
    num_views: int,
    temp: float,
    seen: _Seen,
    functions: RowFunctions,
) -> tuple[Tensor, Tensor]:
    """The same of logits that exist for a few rows at a time."""
    assert isinstance(student.cls, Scored) and isinstance(student.patch, Scored)
    cls = fused_cls_loss(student.cls, targets[0], temp, seen=seen[0], functions=functions)
    patch = fused_patch_loss(
        student.patch, targets[1], weight, num_views, temp, seen=seen[1], functions=functions
    )
    return cls, patch
