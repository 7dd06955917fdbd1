"""Schedules as pure functions of the step (spec 5.4, 6.1, 6.2): nothing to save."""

from __future__ import annotations

from dataclasses import dataclass

from ibot.config.resolve import Derived
from ibot.config.schema import Config
from ibot.curves import cosine, ramp
from ibot.types import StepValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """All scheduled values of a run; lengths in optimizer steps, already clipped to the run."""

    config: Config
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    temp_warmup_steps: int
    freeze_steps: int
    head_warmup_steps: int = 0

    @classmethod
    def of(cls, config: Config, derived: Derived) -> Schedules:
        """The schedules of a run."""
        return cls(
            config=config,
            steps_per_epoch=derived.steps_per_epoch,
            total_steps=derived.total_steps,
            warmup_steps=derived.warmup_steps,
            temp_warmup_steps=derived.temp_warmup_steps,
            freeze_steps=derived.freeze_steps,
            head_warmup_steps=derived.head_warmup_steps,
        )

    @property
    def peak_lr(self) -> float:
        """Learning rate at the peak: the setting, for a total batch of 256, times batch / 256."""
        return self.config.optim.lr * self.config.train.batch / 256

    def epoch(self, step: int) -> int:
        """Epoch of a step, from 0."""
        return step // self.steps_per_epoch

    def at(self, step: int) -> StepValues:
        """The values that the step from `step` to `step + 1` uses."""
        optim, method = self.config.optim, self.config.method
        return StepValues(
            lr=cosine(step, self.peak_lr, optim.min_lr, self.total_steps, self.warmup_steps),
            weight_decay=cosine(step, optim.weight_decay, optim.weight_decay_end, self.total_steps),
            momentum=cosine(step, method.momentum, 1.0, self.total_steps),
            teacher_temp=self._temperature(step, method.teacher_temp_start, method.teacher_temp, 0),
            patch_temp=self._temperature(
                step, method.patch_temp_start, method.patch_temp, self.config.mask.start_epoch
            ),
            freeze_last_layer=step < self.freeze_steps,
            freeze_backbone=step < self.head_warmup_steps,
        )

    def _temperature(self, step: int, start: float, end: float, start_epoch: int) -> float:
        """Warm up per epoch as published, or per step; constant at `start` before `start_epoch`."""
        if self.config.method.temp_schedule == "step":
            position, length = step - start_epoch * self.steps_per_epoch, self.temp_warmup_steps
        else:
            position = self.epoch(step) - start_epoch
            length = round(self.temp_warmup_steps / self.steps_per_epoch)
        return start if position < 0 else ramp(position, start, end, length)
