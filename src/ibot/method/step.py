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
from ibot.method.targets import Targets, split_rows, targets_of
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
    # The pairs of an ablation are no masks: they have a loss from the beginning.
    if not values.hides_patches and method.patch_match == "hidden":
        batch = replace(batch, masks=batch.masks.emptied())
    fused = fusing(model.student.head, model.cls_center.value)
    scored = {} if fused is None else {"scored": True}
    views = batch.global_views, batch.masks, batch.local_views
    # Sinkhorn-Knopp balances all rows at once.
    teacher: TeacherOutput = model.teacher(*views, **(scored if method.targets == "center" else {}))
    masks = batch.masks if teacher.masks is None else teacher.masks
    output: StudentOutput = student(views[0], masks, views[2], batch.drop, **scored)
    of_cls, of_patches = targets_of(model, teacher, batch, masks, values, method)
    like, patches = teacher.patch_mean, output.patch
    weight = loss_weight(masks).to(like.dtype)
    seen = _sums(output, weight) if observe else (None, None)
    how = method.student_temp, fused
    metrics: dict[str, Tensor] = {}
    if masks.visible is not None:
        patches, others = split_rows(patches, len(weight))
        of_patches, of_others = of_patches.split(len(weight))
        metrics = _visible(others, of_others, masks.visible, like, observe, *how)
    cls = _cls_loss(output.cls, of_cls, seen[0], *how)
    patch = _patch_loss(patches, of_patches, weight, masks.loss_views, seen[1], *how)
    loss = method.cls_weight * cls + method.patch_weight * patch
    metrics |= {"cls_loss": cls, "patch_loss": patch}
    if masks.visible is not None:
        loss = loss + method.visible_weight * metrics["visible_loss"]
    if method.koleo_weight:
        metrics["koleo_loss"] = koleo = koleo_loss(gather_rows(output.features))
        loss = loss + method.koleo_weight * koleo
    num_views = masks.num_views
    model.cls_center.add(teacher.cls_mean, num_views)
    model.patch_center.add(teacher.patch_mean, num_views)
    if seen[0] is not None and seen[1] is not None:
        metrics.update(observations(teacher, output, *seen, masks, weight))
    metrics = {name: value.detach() for name, value in metrics.items()}
    return StepOutput(loss, metrics, output, teacher)


def loss_weight(masks: Masks) -> Tensor:
    """Weights of all patches in the loss, those of local views last."""
    return masks.weight if masks.local is None else torch.cat([masks.weight, masks.local.weight])


def _size(logits: Tensor | Scored) -> int:
    """K."""
    return len(logits.weight) if isinstance(logits, Scored) else logits.shape[-1]


_Seen = tuple[TargetSums, TargetSums] | tuple[None, None]


def _sums(student: StudentOutput, weight: Tensor) -> _Seen:
    return TargetSums(_size(student.cls), weight), TargetSums(_size(student.patch), weight, weight)


def _cls_loss(
    student: Tensor | Scored,
    targets: Targets,
    seen: TargetSums | None,
    temp: float,
    functions: RowFunctions | None,
) -> Tensor:
    """By whole logits, or by those of a few rows at a time where there are `functions` for it."""
    if functions is not None:
        assert isinstance(student, Scored)
        return fused_cls_loss(student, targets, temp, seen=seen, functions=functions)
    assert isinstance(student, Tensor)
    return cls_loss(student, _probs(targets, seen), temp)


def _patch_loss(
    student: Tensor | Scored,
    targets: Targets,
    weight: Tensor,
    num_views: int,
    seen: TargetSums | None,
    temp: float,
    functions: RowFunctions | None,
) -> Tensor:
    """The same of patches."""
    if functions is not None:
        assert isinstance(student, Scored)
        return fused_patch_loss(
            student, targets, weight, num_views, temp, seen=seen, functions=functions
        )
    assert isinstance(student, Tensor)
    return patch_loss(student, _probs(targets, seen), weight, num_views, temp)


def _visible(
    student: Tensor | Scored,
    targets: Targets,
    masks: Masks,
    like: Tensor,
    observe: bool,
    temp: float,
    functions: RowFunctions | None,
) -> dict[str, Tensor]:
    """Loss of the visible patches, a mean over all views, and with `observe` the entropy of their
    targets.
    """
    weight = masks.weight.to(like.dtype)
    seen = TargetSums(_size(student), weight, weight) if observe else None
    loss = _patch_loss(student, targets, weight, masks.num_views, seen, temp, functions)
    found = {"visible_loss": loss}
    if seen is not None:
        found["visible_entropy"] = seen.entropy / weight.sum().clamp(min=1)
    return found


@torch.no_grad()
def _probs(targets: Targets, seen: TargetSums | None) -> Tensor:
    """All probabilities, which `seen` gets."""
    probs = targets.probs()
    if seen is not None:
        seen.add(probs)
    return probs
