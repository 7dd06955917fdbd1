"""What a run became on its way: made longer, or trained on more images than it began with.

Both are kept in its settings (`train.lengths`, `train.lists`), so that epochs and schedules stay
functions of the step alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ibot.config.duration import Duration
from ibot.config.schema import Config, TrainConfig

WRITTEN = ("train.length", "train.lengths", "train.lists")
"""Settings that change with the history of a run."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs of a run: whole ones of each list of images, but for the last of a list that was
    given up for another.
    """

    lists: tuple[tuple[int, int, int], ...]
    """First step, first epoch and steps per epoch of each list."""

    @classmethod
    def of(cls, train: TrainConfig, images: int) -> Epochs:
        """Those of a run on so many images, unless its settings know more."""
        lists = train.lists or ((0, 0, images),)
        return cls(
            tuple((step, epoch, max(1, count // train.batch)) for step, epoch, count in lists)
        )

    def place(self, step: int) -> tuple[int, int]:
        """Epoch of a step, from 0, and the number of steps of it before that one."""
        first, epoch, length = self._list_of(step)
        passed, position = divmod(step - first, length)
        return epoch + passed, position

    def passed(self, step: int) -> float:
        """Epochs before a step, with the part of the one in progress."""
        first, epoch, length = self._list_of(step)
        return epoch + (step - first) / length

    def step_of(self, epochs: float) -> int:
        """Step at which so many epochs are done, the present list being the last."""
        ends = [first for first, _, _ in self.lists[1:]]
        for (first, epoch, length), end in zip(self.lists, [*ends, math.inf], strict=True):
            step = max(first, round(first + (epochs - epoch) * length))
            if step < end:
                return step
        raise AssertionError("the last list has no end")

    def next_at(self, step: int) -> int:
        """Number of the first epoch of which nothing was seen before a step."""
        epoch, position = self.place(step)
        return epoch + (position > 0)

    def _list_of(self, step: int) -> tuple[int, int, int]:
        return next(entry for entry in reversed(self.lists) if entry[0] <= step or not entry[0])


def begun(train: TrainConfig, images: int) -> TrainConfig:
    """The same settings with the first entries of the history: so many images, and the length."""
    epochs = Epochs.of(train, images)
    steps = train.length.steps(batch=train.batch, steps_per_epoch=epochs.lists[0][2], total_steps=0)
    return replace(
        train,
        lengths=train.lengths or ((0, max(1, steps)),),
        lists=train.lists or ((0, 0, images),),
    )


def steps_in_all(train: TrainConfig, images: int, length: Duration) -> int:
    """A length in steps from the beginning of the run; epochs to come are those of its last list.

    Raises ValueError for percent.
    """
    if length.unit == "percent":
        raise ValueError("write for example '40 epochs', '4000 steps' or '1e6 images'")
    if length.unit == "epochs":
        return Epochs.of(train, images).step_of(length.value)
    return length.steps(batch=train.batch, steps_per_epoch=0, total_steps=0)


def extended(config: Config, images: int, step: int, length: Duration) -> Config:
    """A run on so many images that stands at `step`, with `length` in all."""
    train = begun(config.train, images)
    total = steps_in_all(train, images, length)
    kept = tuple(entry for entry in train.lengths if entry[0] < step)
    return replace(
        config,
        train=replace(train, length=length, lengths=(*kept, (step if kept else 0, total))),
    )


def with_images(config: Config, before: int, step: int, images: int) -> Config:
    """A run on `before` images that stands at `step` and goes on with other ones, so many.

    A new epoch begins; the length stays as many steps as it was.
    """
    train = begun(config.train, before)
    kept = tuple(entry for entry in train.lists if entry[0] < step)
    if not kept:
        return replace(config, train=replace(train, lists=((0, 0, images),)))
    epoch = Epochs.of(replace(train, lists=kept), before).next_at(step)
    return replace(config, train=replace(train, lists=(*kept, (step, epoch, images))))


def rewound(config: Config, step: int) -> Config:
    """A run that stands at `step` again, because its later checkpoints are gone: what changed after
    it changes there.
    """
    train = config.train
    lengths = [entry for entry in train.lengths if entry[0] <= step]
    if len(lengths) < len(train.lengths):
        lengths = [*(entry for entry in lengths if entry[0] < step), (step, train.lengths[-1][1])]
    lists = [entry for entry in train.lists if entry[0] <= step]
    lost = len(lists) < len(train.lists)
    config = replace(config, train=replace(train, lengths=tuple(lengths), lists=tuple(lists)))
    if not lost:
        return config
    return with_images(config, lists[0][2], step, train.lists[-1][2])


def continues(before: Config, after: Config, images: int) -> bool:
    """Whether the settings `after` are those of a run on so many images, made longer or with other
    images since.
    """
    old, new = begun(before.train, images), after.train
    if (new.lengths, new.lists) == (before.train.lengths, before.train.lists):
        return False
    return bool(new.lengths and new.lists) and all(
        # Of a run that had not begun the first entries changed.
        theirs[0] == own[0] or len(theirs) == 1
        for theirs, own in ((new.lengths, old.lengths), (new.lists, old.lists))
    )
