"""Batch and momentum of the teacher for few images and few steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ibot.config.resolve import derive, largest_power_of_two
from ibot.config.schema import Config
from ibot.words import counted

FEW_STEPS = 4
"""Of an epoch, below which a batch is said to be a large part of the images."""


def for_few_images(
    config: Config, images: int, processes: int, given: Collection[str] = ()
) -> tuple[Config, list[str]]:
    """A recipe of a fixed batch with the one that suits so few images, and with a teacher that
    moves in so few steps.

    Args:
        config: the settings.
        images: of the data set.
        processes: that share the batch.
        given: keys that the user set: they stay.

    Returns:
        The settings, and in words what was changed.
    """
    if "train.batch" in given or fitting_batch(config.train.batch, images) == config.train.batch:
        return config, []
    batch = fitting_batch(config.train.batch, images, processes)
    notes = [
        f"train.batch={batch} in place of {config.train.batch}: the set has "
        f"{counted(images, 'image')}"
    ]
    config = replace(config, train=replace(config.train, batch=batch))
    steps = derive(config, images, processes).total_steps
    momentum = momentum_for(steps, 10, config.method.momentum)
    if "method.momentum" in given or momentum == config.method.momentum:
        return config, notes
    notes.append(
        f"method.momentum={momentum:g} in place of {config.method.momentum:g}: a run of "
        f"{counted(steps, 'step')}"
    )
    return replace(config, method=replace(config.method, momentum=momentum)), notes


def for_fewer_than_a_batch(
    config: Config, images: int, processes: int, given: Collection[str] = ()
) -> tuple[Config, list[str]]:
    """A named recipe as it is, with the batch that would suit so few images in words; where these
    do not fill its batch, with that one, as `for_few_images`.

    One image alone leaves it as it is: nothing suits it.
    """
    batch, most = fitting_batch(config.train.batch, images, processes), config.train.batch
    if 1 < images < most:
        return for_few_images(config, images, processes, given)
    if images > 1 and batch < most and images < FEW_STEPS * most:
        steps = counted(images // most, "step")
        return config, [
            f"a batch of {most} is a large part of {counted(images, 'image')}, {steps} an epoch: "
            f"train.batch={batch} suits so few"
        ]
    return config, []


def fitting_batch(most: int, images: int, processes: int = 1) -> int:
    """An eighth of the images, but 8 of a few, at most `most`: a power of two for each process."""
    largest = min(most, images, max(8, images // 8))
    return processes * largest_power_of_two(max(1, largest // processes))


def momentum_for(steps: int, memories: int, most: float) -> float:
    """Of a teacher that forgets so many times in a run, or a little more often, up to `most`."""
    return round(min(most, max(0.9, 1 - memories / steps)), 4)
