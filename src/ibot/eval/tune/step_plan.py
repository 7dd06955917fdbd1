"""How a fine-tuning is cut into steps, and its learning rate (spec_evaluation 8.4, 8.5, 8.7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ibot.curves import cosine, ramp
from ibot.errors import DataError
from ibot.eval.tune.augment import Key, deal, epoch_size
from ibot.eval.tune.settings import FinetuneSettings
from ibot.rng import permutation
from ibot.system.processes import Processes


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How an epoch is cut: steps of `parts` micro-batches over all processes."""

    micro_batch: int
    """Images per forward pass."""
    parts: int
    """Micro-batches per step."""
    steps_per_epoch: int
    """floor(images of an epoch / batch): an incomplete last batch is dropped."""
    mixing: bool
    """Whether mixup and CutMix are on."""
    notes: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """Images per step."""
        return self.micro_batch * self.parts


def plan_steps(
    num_images: int, num_classes: int, settings: FinetuneSettings, world_size: int = 1
) -> StepPlan:
    """Fit the batch to the images and the processes.

    A batch larger than the epoch is lowered to it (else no step would remain), and one that the
    processes cannot share equally to the next that they can; mixing needs an even micro-batch. Each
    change gives a note.

    Raises:
        DataError: fewer images than processes.
    """
    notes = []
    mixing = (settings.mixup > 0 or settings.cutmix > 0) and num_classes > 1
    images = epoch_size(num_images, settings.repeats)
    batch = min(settings.batch, images)
    rounds = max(1, -(-batch // (settings.micro_batch * world_size)))
    micro_batch = batch // (rounds * world_size)
    if micro_batch < 1:
        raise DataError(
            f"{num_images} training images do not suffice for {world_size} processes",
            fix="add images, or start fewer processes",
        )
    if mixing and micro_batch == 1:
        mixing = False
        notes.append("mixup and CutMix are off: there is one image per process and step")
    if mixing:
        micro_batch -= micro_batch % 2
    parts = rounds * world_size
    plan = StepPlan(micro_batch, parts, images // (micro_batch * parts), mixing)
    if plan.batch != settings.batch:
        why = "the processes share it equally"
        if settings.batch > images:
            why = f"an epoch has {images} images"
        notes.append(f"the batch is {plan.batch} instead of {settings.batch}: {why}")
    return replace(plan, notes=tuple(notes))


def finetune_lr(
    step: int, settings: FinetuneSettings, *, steps_per_epoch: int, batch: int
) -> float:
    """Learning rate of the last layer in a step (from 0), before the factors of the layers.

    `batch` is the one trained with. 8.4: per step, warm-up from 0 with both ends, then a cosine.
    8.5 and 8.7: per epoch as timm's scheduler, which is stepped after the epoch and so lags by one.
    There the floor does not scale with the batch: a small batch makes the rate rise where it should
    fall (as published).
    """
    peak = settings.lr * batch / settings.lr_batch if settings.lr_batch else settings.lr
    if settings.schedule == "step":
        total, warmup = settings.epochs * steps_per_epoch, settings.warmup_epochs * steps_per_epoch
        return cosine(step, peak, settings.min_lr, total, warmup)
    position = max(0, step // steps_per_epoch - 1)
    if position < settings.warmup_epochs:
        return ramp(position, settings.warmup_lr, peak, settings.warmup_epochs + 1)
    # The warm-up does not delay the cosine, it hides its beginning.
    return cosine(position, peak, settings.min_lr, settings.epochs)


@dataclass(frozen=True, slots=True)
class StepOrder:
    """The views of each micro-batch of this process, one after the other: a batch sampler."""

    num_images: int
    plan: StepPlan
    settings: FinetuneSettings
    seed: int
    processes: Processes
    start: int
    """Step to begin with."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.plan.steps_per_epoch

    def __iter__(self) -> Iterator[list[Key]]:
        """(epoch, image, copy) of each view; each micro-batch is dealt its images by `deal`."""
        plan = self.plan
        own = range(self.processes.rank, plan.parts, self.processes.world_size)
        dealt_epoch, dealt = -1, []
        for step in range(self.start, self.total_steps):
            epoch, place = divmod(step, plan.steps_per_epoch)
            if epoch != dealt_epoch:
                order = permutation(self.seed, epoch, self.num_images)
                dealt = [deal(order, self.settings.repeats, part, plan.parts) for part in own]
                dealt_epoch = epoch
            for images, copies in dealt:
                here = slice(place * plan.micro_batch, (place + 1) * plan.micro_batch)
                yield [
                    (epoch, i, c)
                    for i, c in zip(images[here].tolist(), copies[here].tolist(), strict=True)
                ]
