"""Steps of random images: what they take, and how many images a trial can take at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ibot.config.schema import Config
from ibot.data.depth import branch_factors
from ibot.data.masks import make_masks, with_visible
from ibot.data.pairs import make_pairs
from ibot.data.params import view_params
from ibot.engine.loop import mask_grid
from ibot.engine.update import Update
from ibot.kernels.choice import using
from ibot.types import Batch, StepValues

VALUES = StepValues(
    lr=1e-4,
    weight_decay=0.04,
    momentum=0.996,
    teacher_temp=0.04,
    patch_temp=0.04,
    freeze_last_layer=False,
)
FEW = 2
"""Images of the first step, which may be those of a large network on a slow machine."""
GROWTH = 4
"""Times as many images are tried next."""
LONGEST = 4.0
"""Seconds that a step of a trial may take: above it fewer images than the run's are tried."""
DRAWS = 64
"""Images whose masks are drawn, to choose some of the usual size."""


@dataclass(frozen=True, slots=True)
class StepSize:
    """Of an optimizer step in one process."""

    micro_batch: int
    parts: int = 1
    """Micro-batches."""

    @property
    def images(self) -> int:
        """In all."""
        return self.micro_batch * self.parts


class RandomSteps:
    """Optimizer steps of random images, by the fast paths and with the draws of a run."""

    def __init__(self, update: Update, config: Config, device: torch.device) -> None:
        self.update, self.config, self.device = update, config, device
        self._batch: Batch | None = None

    def seconds(self, size: StepSize) -> float:
        """Of one step."""
        batch = self._batch
        if batch is None or len(batch.index) != size.micro_batch:
            rates = self.update.model.student.backbone.drop_rates
            batch = self._batch = random_batch(self.config, size.micro_batch, self.device, rates)
        began = time.perf_counter()
        with using(self.config.system.kernels):
            self.update.step([batch] * size.parts, VALUES, observe=False)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def affordable(seconds: Callable[[StepSize], float], whole: StepSize) -> StepSize:
    """The whole step of a run where that takes at most about `LONGEST` seconds; else one
    micro-batch of it, or the part of one that does.

    seconds: takes a step of some size.
    """
    size = StepSize(min(FEW, whole.micro_batch))
    seconds(size)  # the first step allocates
    while True:
        took = seconds(size)
        if size.micro_batch == whole.micro_batch:
            return whole if whole.parts * took <= LONGEST else size
        fitting = int(size.micro_batch * LONGEST / took)
        images = min(whole.micro_batch, GROWTH * size.micro_batch, fitting)
        if images < min(1.5 * size.micro_batch, whole.micro_batch):
            return size
        size = StepSize(images)


def random_batch(
    config: Config, images: int, device: torch.device, rates: Sequence[float] = ()
) -> Batch:
    """Views of noise, and masks as they are drawn after `mask.start`.

    rates: of stochastic depth, whose draws come with a batch (`Backbone.drop_rates`).
    """
    augment, numbers = config.augment, np.arange(images)
    # Of few images the share of hidden patches varies much: the draw nearest to the mean.
    mean = sum(ratio for ratio, _ in config.mask.ratio) / len(config.mask.ratio)
    draws = [
        make_masks(config.mask, mask_grid(config), augment.num_global, seed, 0, numbers)
        for seed in range(max(1, DRAWS // images))
    ]
    masks = min(draws, key=lambda drawn: abs(drawn.map.float().mean().item() - mean))
    if config.method.visible_weight:
        pairs = None
        if config.method.visible_target == "other":
            # Of square images: what two views have in common hardly depends on their size.
            sizes = np.full((images, 2), max(augment.global_size))
            params = view_params(augment, 0, 0, numbers, sizes)
            pairs = make_pairs("position", params, mask_grid(config))
        masks = with_visible(masks, pairs)
    channels = len(config.model.channels)
    views = [
        torch.randn(count, images, channels, *size, device=device) if count else None
        for count, size in (
            (augment.num_global, augment.global_size),
            (augment.num_local, augment.local_size),
        )
    ]
    assert views[0] is not None
    num_views = augment.num_global + augment.num_local
    drop = branch_factors(rates, num_views, 0, 0, numbers).to(device) if rates else None
    return Batch(views[0], views[1], masks.each(lambda t: t.to(device)), numbers, drop=drop)
