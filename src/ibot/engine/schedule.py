"""Schedules as pure functions of the step (spec 5.4, 6.1, 6.2): nothing to save.

A run that was made longer: learning rate, weight decay and momentum follow the half cosines of the
new length. From where they stood they move there in a straight line, over the first `REWARMED` of
the steps that were added: a finished run warms up again, the more the longer it goes on. Warm-ups
and temperatures stay those of the run as it began.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibot.config.history import Epochs
from ibot.config.resolve import Derived
from ibot.config.schema import Config
from ibot.curves import cosine, ramp
from ibot.types import StepValues

REWARMED = 0.05
"""Share of the steps after which a longer run is on its new schedules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """All scheduled values of a run; lengths in optimizer steps, already clipped to the run."""

    config: Config
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    temp_warmup_steps: int
    freeze_steps: int
    mask_start: int
    head_warmup_steps: int = 0
    lengths: tuple[tuple[int, int], ...] = ()
    """First step and total steps of each length of the run; empty: `total_steps` alone."""
    epochs: Epochs | None = None
    """None: `steps_per_epoch` from the beginning."""

    @classmethod
    def of(cls, config: Config, derived: Derived) -> Schedules:
        """The schedules of a run."""
        epochs = Epochs.of(config.train, derived.steps_per_epoch * config.train.batch)
        return cls(
            config=config,
            lengths=derived.lengths,
            epochs=epochs,
            steps_per_epoch=derived.steps_per_epoch,
            total_steps=derived.total_steps,
            warmup_steps=derived.warmup_steps,
            temp_warmup_steps=derived.temp_warmup_steps,
            freeze_steps=derived.freeze_steps,
            head_warmup_steps=derived.head_warmup_steps,
            mask_start=derived.mask_start,
        )

    @property
    def peak_lr(self) -> float:
        """Learning rate at the peak: the setting, for a total batch of 256, times batch / 256."""
        return self.config.optim.lr * self.config.train.batch / 256

    def epoch(self, step: int) -> int:
        """Epoch of a step, from 0."""
        return self.epochs.place(step)[0] if self.epochs else step // self.steps_per_epoch

    def epochs_passed(self, step: int) -> float:
        """Epochs before a step, with the part of the one in progress."""
        return self.epochs.passed(step) if self.epochs else step / self.steps_per_epoch

    def at(self, step: int) -> StepValues:
        """The values that the step from `step` to `step + 1` uses."""
        method = self.config.method
        lengths = self.lengths or ((0, self.total_steps),)
        part = max(i for i, (first, _) in enumerate(lengths) if first <= step)
        lr, weight_decay, momentum = self._moving(step, lengths[: part + 1])
        return StepValues(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            teacher_temp=self._temperature(step, method.teacher_temp_start, method.teacher_temp, 0),
            patch_temp=self._temperature(
                step, method.patch_temp_start, method.patch_temp, self.mask_start
            ),
            hides_patches=step >= self.mask_start,
            freeze_last_layer=step < self.freeze_steps,
            freeze_backbone=step < self.head_warmup_steps,
        )

    def _moving(self, step: int, lengths: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
        """Learning rate, weight decay and momentum at a step of the last of these lengths."""
        optim, method = self.config.optim, self.config.method
        first, total = lengths[-1]
        aim = (
            cosine(step, self.peak_lr, optim.min_lr, total, self.warmup_steps),
            cosine(step, optim.weight_decay, optim.weight_decay_end, total),
            cosine(step, method.momentum, 1.0, total),
        )
        joins = rewarmed_at(first, total) if len(lengths) > 1 else 0
        if step >= joins:
            return aim
        share = (step - first + 1) / (joins - first + 1)
        stood = self._moving(first - 1, lengths[:-1])
        return tuple(
            before + share * (after - before) for before, after in zip(stood, aim, strict=True)
        )

    def _temperature(self, step: int, start: float, end: float, begin: int) -> float:
        """Warm up from step `begin` on, per epoch as published or per step; before it `start`."""
        steps_per_epoch = self.epochs.lists[0][2] if self.epochs else self.steps_per_epoch
        if self.config.method.temp_schedule == "step":
            position, length = step - begin, self.temp_warmup_steps
        else:
            position = self.epoch(step) - self.epoch(begin)
            length = round(self.temp_warmup_steps / steps_per_epoch)
        return start if step < begin else ramp(position, start, end, length)


def rewarmed_at(first: int, total: int) -> int:
    """Step at which a run that was made longer at `first` is on its new schedules."""
    return first + max(1, round(REWARMED * (total - first)))
