"""One micro-batch through student and teacher: the paper's algorithm 1 up to the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibot.config.schema import MethodConfig
from ibot.method.center import sinkhorn_probs
from ibot.method.gather import gather_rows
from ibot.method.losses import cls_loss, entropy, hard_labels, koleo_loss, patch_loss, teacher_probs
from ibot.method.model import StudentOutput, StudentTeacher, TeacherOutput
from ibot.system.distributed import sum_over_processes
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
    teacher: TeacherOutput = model.teacher(batch.global_views, batch.masks, batch.local_views)
    output: StudentOutput = student(batch.global_views, batch.masks, batch.local_views, batch.drop)
    cls_target, patch_target = _targets(model, teacher, batch, values, method)
    temp, num_views = method.student_temp, batch.masks.loss_views
    cls = cls_loss(output.cls, cls_target, temp)
    weight = loss_weight(batch.masks).to(output.patch.dtype)
    patch = patch_loss(output.patch, patch_target, weight, num_views, temp)
    loss = method.cls_weight * cls + method.patch_weight * patch
    metrics = {"cls_loss": cls, "patch_loss": patch}
    if method.koleo_weight:
        metrics["koleo_loss"] = koleo = koleo_loss(gather_rows(output.features))
        loss = loss + method.koleo_weight * koleo
    views = teacher.cls.shape[0] * teacher.cls.shape[1]
    model.cls_center.add(teacher.cls_mean, views)
    model.patch_center.add(teacher.patch_mean, views)
    if observe:
        metrics.update(_observations(teacher, output, cls_target, patch_target, batch))
    metrics = {name: value.detach() for name, value in metrics.items()}
    return StepOutput(loss, metrics, output, teacher)


def loss_weight(masks: Masks) -> Tensor:
    """Weights of all patches in the loss, those of local views last."""
    return masks.weight if masks.local is None else torch.cat([masks.weight, masks.local.weight])


@torch.no_grad()
def _targets(
    model: StudentTeacher,
    teacher: TeacherOutput,
    batch: Batch,
    values: StepValues,
    method: MethodConfig,
) -> tuple[Tensor, Tensor]:
    """Target probabilities [G, B, K] of the class tokens and [M, K'] of the masked patches."""
    if method.targets == "sinkhorn":
        cls = sinkhorn_probs(teacher.cls.flatten(0, 1), values.teacher_temp).view_as(teacher.cls)
    else:
        cls = teacher_probs(teacher.cls, model.cls_center.value, values.teacher_temp)
    if model.tokenizer is not None:
        patch = model.tokenizer.targets(batch.global_views, batch.masks, values.patch_temp)
    elif method.targets == "sinkhorn":
        patch = sinkhorn_probs(teacher.patch, values.patch_temp)
    else:
        patch = teacher_probs(teacher.patch, model.patch_center.value, values.patch_temp)
    return cls, hard_labels(patch) if method.patch_labels == "hard" else patch


@torch.no_grad()
def _observations(
    teacher: TeacherOutput,
    student: StudentOutput,
    cls_target: Tensor,
    patch_target: Tensor,
    batch: Batch,
) -> dict[str, Tensor]:
    """Numbers that say how the training does; means over processes are those of one process."""
    rows = cls_target.flatten(0, 1)
    weight = loss_weight(batch.masks).to(patch_target.dtype)
    masked = weight.sum().round()  # the weights of a view sum to 1
    counts = weight.new_tensor([len(rows), len(patch_target), 1])
    own = [rows.sum(dim=0), patch_target.sum(dim=0), masked, counts]
    cls_sum, patch_sum, masked, (num_rows, num_patches, processes) = sum_over_processes(own)
    # The patch loss counts views without a mask as zero; per hidden view it compares with ln K.
    masked_views = masked.clamp(min=1) / processes
    last_global = teacher.cls.shape[0] - 1
    agree = teacher.cls[0].argmax(-1) == student.cls[last_global].argmax(-1)
    return {
        "teacher_entropy": entropy(rows).mean(),
        "patch_entropy": (entropy(patch_target) * weight).sum() / masked_views,
        "patch_views": batch.masks.loss_views / masked_views,
        "marginal_entropy": entropy(cls_sum / num_rows),
        "patch_marginal_entropy": entropy(patch_sum / num_patches.clamp(min=1)),
        "agreement": agree.float().mean(),
        "cls_prototypes": rows.argmax(-1).bincount(minlength=rows.shape[-1]),
        "patch_prototypes": patch_target.argmax(-1).bincount(minlength=patch_target.shape[-1]),
        "features": teacher.features.flatten(0, 1),
        "masked_fraction": weight.new_tensor(len(batch.masks.index) / batch.masks.map.numel()),
    }
