"""Where the target probabilities of the two losses come from (spec 5.5; tables 9, 18)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ibot.config.schema import MethodConfig
from ibot.method.center import sinkhorn_probs
from ibot.method.losses import hard_labels, teacher_probs
from ibot.method.model import StudentTeacher, TeacherOutput
from ibot.models.head import Scored, at_least_float32
from ibot.types import Batch, Masks, StepValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Targets of one loss, to be computed at once or a few rows at a time; no gradient."""

    source: Tensor | Scored
    """Probabilities [..., R, K]; or, with a center, logits, computed or not."""
    center: Tensor | None = None
    """[K]."""
    temp: float = 1.0
    """The teacher's temperature."""
    hard: bool = False
    """All of each row on its largest entry."""

    @property
    def rows(self) -> Tensor:
        """What there is of each row: [..., R, d or K]."""
        return self.source.rows if isinstance(self.source, Scored) else self.source

    def split(self, count: int) -> tuple[Targets, Targets]:
        """Those of the first `count` rows, and the others."""
        first, others = split_rows(self.source, count)
        return replace(self, source=first), replace(self, source=others)

    def probs(self) -> Tensor:
        """[..., R, K], float32 or wider."""
        probs = self.source.logits() if isinstance(self.source, Scored) else self.source
        if self.center is not None:
            probs = teacher_probs(probs, self.center, self.temp)
        return hard_labels(probs) if self.hard else probs

    def part(
        self, part: slice, buffer: Tensor, softmax: Callable[[Tensor, Tensor, float], None]
    ) -> Tensor:
        """Probabilities [G, r, K] of a part of the rows [G, R, d or K], in `buffer` where they are
        computed. `softmax` centres and sharpens logits [N, K] in place.
        """
        rows = at_least_float32(self.rows[:, part])
        probs = rows.contiguous()
        if self.center is not None:
            size = len(self.center)
            flat = buffer[: rows.shape[0] * rows.shape[1] * size].view(-1, size)
            if isinstance(self.source, Scored):
                torch.mm(rows.flatten(0, 1), self.source.weight.T, out=flat)
            else:
                flat.copy_(rows.flatten(0, 1))
            softmax(flat, self.center, self.temp)
            probs = flat.view(*rows.shape[:2], size)
        return hard_labels(probs) if self.hard else probs


def split_rows(rows: Tensor | Scored, count: int) -> tuple[Tensor | Scored, Tensor | Scored]:
    """The first `count` rows [R, ...], computed or not, and the others."""
    if isinstance(rows, Scored):
        first, others = rows.rows[:count], rows.rows[count:]
        return rows._replace(rows=first), rows._replace(rows=others)
    return rows[:count], rows[count:]


@torch.no_grad()
def targets_of(
    model: StudentTeacher,
    teacher: TeacherOutput,
    batch: Batch,
    masks: Masks,
    values: StepValues,
    method: MethodConfig,
) -> tuple[Targets, Targets]:
    """Those of the class tokens, [G, B, K], and of the patches in a loss, [M, K'].

    By the centers of the step before.
    """
    hard = method.patch_labels == "hard"
    cls = Targets(source=teacher.cls, center=model.cls_center.value, temp=values.teacher_temp)
    patch = Targets(
        source=teacher.patch, center=model.patch_center.value, temp=values.patch_temp, hard=hard
    )
    if method.targets == "sinkhorn":
        # All rows are balanced together: their logits are there.
        assert isinstance(teacher.cls, Tensor) and isinstance(teacher.patch, Tensor)
        balanced = sinkhorn_probs(teacher.cls.flatten(0, 1), values.teacher_temp)
        cls = Targets(source=balanced.view_as(teacher.cls))
    if model.tokenizer is not None:
        given = model.tokenizer.targets(batch.global_views, masks, values.patch_temp)
        patch = Targets(source=given, hard=hard)
    elif method.targets == "sinkhorn":
        assert isinstance(teacher.patch, Tensor)
        probs = sinkhorn_probs(teacher.patch, values.patch_temp)
        patch = Targets(
            source=probs if teacher.places is None else probs[teacher.places], hard=hard
        )
    return cls, patch
