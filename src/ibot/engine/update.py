"""One optimizer step over its micro-batches, in the published order (spec 1.2, 6.10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ibot.config.schema import Config
from ibot.engine.optimizer import (
    apply_values,
    clip_gradients,
    drop_gradients,
    drop_last_layer_gradients,
)
from ibot.method.center import update_centers
from ibot.method.ema import update_teacher
from ibot.method.model import StudentTeacher
from ibot.method.step import StepOutput, training_step
from ibot.system.distributed import sum_in_place
from ibot.system.sharding import local
from ibot.types import Batch, StepValues

SUMMED = ("cls_prototypes", "patch_prototypes")
NOT_AVERAGED = ("features",)
PARTS = ("backbone", "head_mlp", "last_layer")


@dataclass(frozen=True, slots=True)
class UpdateOutput:
    """What one optimizer step reports; tensors on the device, nothing is read back here."""

    loss: Tensor
    """Scalar, mean over the micro-batches of this process."""
    failed: Tensor
    """Scalar, above 0 when the loss of any process was not finite."""
    metrics: dict[str, Tensor]
    """As in `StepOutput`: means over micro-batches, prototype counts summed, features of the
    last one."""
    grad_norms: dict[str, Tensor]
    """l2 norm of the gradient of backbone, head MLP and last layer, before clipping."""
    skipped: bool = False
    """float16 overflowed: the optimizer stood still; teacher, centers, schedules moved (6.7)."""


@dataclass(slots=True, kw_only=True)
class Update:
    """Everything that one optimizer step touches."""

    model: StudentTeacher
    student: nn.Module
    """`model.student` or its distributed wrapper."""
    optimizer: torch.optim.Optimizer
    config: Config
    scaler: torch.amp.GradScaler | None = None
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    _averaged: list[tuple[Tensor, Tensor]] = field(init=False)
    _part_of: Tensor = field(init=False)
    """int64 [number of trained tensors], places in `PARTS`."""

    def __post_init__(self) -> None:
        pairs = self.model.averaged()
        # Of sharded networks every process moves its own part: they are cut alike.
        self._averaged = [(local(teacher), local(student)) for teacher, student in pairs]
        trained = [item for item in self.model.student.named_parameters() if item[1].requires_grad]
        # Made once: a GPU would have to be waited for at every step.
        self._part_of = torch.tensor(
            [_part(name) for name, _ in trained], device=trained[0][1].device
        )

    def step(
        self, micro_batches: Sequence[Batch], values: StepValues, observe: bool = True
    ) -> UpdateOutput:
        """Forward, losses, centers, backward, clip, freeze, optimizer, teacher. Equals one large
        batch (spec 6.10).

        With `observe` the metrics hold what the health monitor reads, else the losses alone.
        """
        apply_values(self.optimizer, values)
        self.optimizer.zero_grad(set_to_none=True)
        count = len(micro_batches)
        outputs = [
            self._accumulate(batch, values, i, count, observe)
            for i, batch in enumerate(micro_batches)
        ]
        loss = torch.stack([output.loss.detach() for output in outputs]).mean()
        failed = sum_in_place((~loss.isfinite()).float())
        update_centers([self.model.cls_center, self.model.patch_center])
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norms = clip_gradients(self.model.student.parameters(), self.config.optim.clip)
        if values.freeze_last_layer:
            drop_last_layer_gradients(self.model.student.head)
        if values.freeze_backbone:
            drop_gradients(self.model.student.backbone)
        skipped = False
        if self.scaler is not None:
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            skipped = self.scaler.get_scale() < scale
        else:
            self.optimizer.step()
        # The teacher moves also when float16 overflowed and the optimizer did not (spec 6.7).
        update_teacher(self._averaged, values.momentum)
        return UpdateOutput(
            loss=loss,
            failed=failed,
            metrics=_combine([output.metrics for output in outputs]),
            grad_norms=self._by_part(norms),
            skipped=skipped,
        )

    def _accumulate(
        self, batch: Batch, values: StepValues, i: int, count: int, observe: bool
    ) -> StepOutput:
        last = i == count - 1
        # DDP averages gradients over processes once, at the last micro-batch; sharded ones are
        # averaged at each, or every process would keep all of them whole.
        alone = last or self.student is self.model.student
        no_sync = nullcontext() if alone else self.student.no_sync()  # pyright: ignore
        with no_sync:  # pyright: ignore[reportGeneralTypeIssues, reportOptionalContextManager]
            with self.autocast():
                output = training_step(
                    self.model, self.student, batch, values, self.config.method, observe
                )
            loss = output.loss / count
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return output

    def _by_part(self, norms: Tensor) -> dict[str, Tensor]:
        total = norms.new_zeros(len(PARTS)).index_add_(0, self._part_of, norms.square())
        return dict(zip(PARTS, total.sqrt().unbind(), strict=True))


def _part(name: str) -> int:
    if name.startswith("backbone."):
        return PARTS.index("backbone")
    return PARTS.index("last_layer" if ".last_layer" in name or ".mlp2." in name else "head_mlp")


def _combine(metrics: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the metrics of micro-batches."""
    combined = dict(metrics[-1])
    for name in combined:
        if name in NOT_AVERAGED or len(metrics) == 1:
            continue
        stacked = torch.stack([m[name] for m in metrics])
        combined[name] = stacked.sum(dim=0) if name in SUMMED else stacked.mean(dim=0)
    return combined
