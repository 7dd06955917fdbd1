"""Which images meet in a batch, and in which order (spec_evaluation 8.9.1)."""

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

    The batch of a step holds wide images or others: what is padded alike is of one shape. In each
    epoch both groups are shuffled and filled up to whole batches by repetition, and these are
    shuffled. A micro-batch is every so many-th image of the batch, so that a step has the same
    images, and stochastic depth the same draws for them, however it is shared.
    """

    wide: NDArray[np.bool_]
    """bool [n], whether an image is wider than high."""
    batch: int
    """Images per step over all processes."""
    parts: int
    """Micro-batches per step over all processes, of equally many images."""
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
        return sum(-(-count // self.batch) for count in groups)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Images of all steps of an epoch: int64 [steps, batch]."""
        order = permutation(self.seed, number, len(self.wide))
        groups = [order[self.wide[order]], order[~self.wide[order]]]
        rows = np.concatenate([self._filled(group) for group in groups])
        drawn = words(self.seed, number, np.arange(len(rows)), 0, Purpose.DETECTION_ORDER, 1)
        return rows[np.argsort(drawn[:, 0], kind="stable")]

    def _filled(self, group: NDArray[np.int64]) -> NDArray[np.int64]:
        count = -(-len(group) // self.batch)
        return np.resize(group, (count, self.batch))

    def __iter__(self) -> Iterator[list[Key]]:
        """Step, image and place in the step of each view."""
        number, rows = -1, np.empty((0, 0), np.int64)
        for step in range(self.start, self.steps):
            epoch, row = divmod(step, self.steps_per_epoch)
            if epoch != number:
                number, rows = epoch, self.epoch(epoch)
            for part in range(self.processes.rank, self.parts, self.processes.world_size):
                places = range(part, self.batch, self.parts)
                yield [(step, int(rows[row, place]), place) for place in places]
