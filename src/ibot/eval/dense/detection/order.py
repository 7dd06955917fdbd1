"""Which images meet in a micro-batch, and in which order (spec_evaluation 8.9.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibot.eval.dense.detection.views import Key
from ibot.rng import Purpose, permutation, words
from ibot.system.processes import Processes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedOrder:
    """The views of this process's micro-batches, one after the other: a batch sampler.

    A micro-batch holds wide images or others, since it is padded to its largest. In each epoch both
    groups are shuffled, filled up to whole micro-batches by repetition, and these are shuffled and
    filled up to whole steps. All this knows nothing of processes: they share the micro-batches.
    """

    wide: NDArray[np.bool_]
    """bool [n], whether an image is wider than high."""
    micro_batch: int
    """Images per forward pass."""
    parts: int
    """Micro-batches per step over all processes."""
    seed: int
    processes: Processes = Processes()  # noqa: RUF009 - frozen
    start: int = 0
    """Step to begin with."""
    steps: int
    """Step to end before."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image is seen."""
        groups = int(self.wide.sum()), int((~self.wide).sum())
        return -(-sum(-(-count // self.micro_batch) for count in groups) // self.parts)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Images of all micro-batches of an epoch: int64 [steps * parts, micro_batch]."""
        order = permutation(self.seed, number, len(self.wide))
        groups = [order[self.wide[order]], order[~self.wide[order]]]
        rows = np.concatenate([self._filled(group) for group in groups])
        drawn = words(self.seed, number, np.arange(len(rows)), 0, Purpose.DETECTION_ORDER, 1)
        rows = rows[np.argsort(drawn[:, 0], kind="stable")]
        return np.resize(rows, (self.steps_per_epoch * self.parts, self.micro_batch))

    def _filled(self, group: NDArray[np.int64]) -> NDArray[np.int64]:
        count = -(-len(group) // self.micro_batch)
        return np.resize(group, (count, self.micro_batch))

    def __iter__(self) -> Iterator[list[Key]]:
        """Step, image and place in the step of each view."""
        own = range(self.processes.rank, self.parts, self.processes.world_size)
        number, rows = -1, np.empty((0, 0), np.int64)
        for step in range(self.start, self.steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != number:
                number, rows = epoch, self.epoch(epoch)
            for part in own:
                images = rows[place * self.parts + part].tolist()
                first = part * self.micro_batch
                yield [(step, image, first + i) for i, image in enumerate(images)]
