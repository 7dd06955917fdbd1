"""Which object a box is to find, and which boxes are learned from (8.9.3, 8.9.4).

What is drawn hangs on (seed, step, image, purpose): neither on processes nor on other images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ibot.rng import MAX_DRAWS, Purpose, uniform

NEGATIVE, IGNORED = -1, -2
"""In place of an object's number."""


def assign(
    overlaps: Tensor, positive: float, negative: float, least: float | None = None
) -> Tensor:
    """The object of each box: int64 [n], `NEGATIVE` or `IGNORED` for none.

    A box belongs to the object with which it overlaps most, if by `positive` or more; below
    `negative` it is background. With `least`, every object that some box overlaps by so much then
    takes all boxes that reach its largest overlap, later objects from earlier ones.

    Args:
        overlaps: IoU [objects, n]; without objects all boxes are background.
        positive: 0..1.
        negative: 0..1.
        least: 0..1.
    """
    num_objects, num_boxes = overlaps.shape
    if not num_objects:
        return torch.full((num_boxes,), NEGATIVE, device=overlaps.device)
    largest, nearest = overlaps.max(dim=0)
    found = torch.where(largest < negative, NEGATIVE, IGNORED)
    found = torch.where(largest >= positive, nearest, found)
    if least is not None and num_boxes:
        best = overlaps.amax(dim=1, keepdim=True)
        takes = (overlaps == best) & (best >= least)
        number = torch.arange(1, num_objects + 1, device=overlaps.device)[:, None]
        last = (takes * number).amax(dim=0)
        found = torch.where(last > 0, last - 1, found)
    return found


@dataclass(frozen=True, slots=True)
class Draws:
    """Where the random choices of a step come from."""

    seed: int
    step: int

    def choose(self, count: int, of: int, image: int, purpose: Purpose, kind: int = 0) -> Tensor:
        """`count` different numbers below `of`, all choices equally likely: int64 on the CPU.

        The first different ones of a stream of numbers; all, in order, where `of` is not more.

        Args:
            count: how many.
            of: among how many.
            image: number of the image.
            purpose: what for.
            kind: 0..3, which of several choices of that purpose.
        """
        if of <= count:
            return torch.arange(of)
        chosen = np.empty(0, np.int64)
        block = 0
        while len(chosen) < count:
            views = np.arange(block, block + max(1, count // MAX_DRAWS)) * 4 + kind
            drawn = uniform(self.seed, self.step, image, views, purpose, MAX_DRAWS).reshape(-1)
            chosen = np.concatenate([chosen, (drawn * of).astype(np.int64)])
            chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])]
            block += len(views)
        return torch.from_numpy(chosen[:count])


def sample(
    assigned: Tensor, count: int, share: float, draws: Draws, image: int, purpose: Purpose
) -> tuple[Tensor, Tensor]:
    """Boxes to learn from: int64 positives and negatives, places in `assigned`.

    Together `count` where there are so many, positives at most `share` of it.
    """
    positives, negatives = (assigned >= 0).nonzero()[:, 0], (assigned == NEGATIVE).nonzero()[:, 0]
    chosen = draws.choose(int(count * share), len(positives), image, purpose, 0)
    positives = positives[chosen.to(assigned.device)]
    chosen = draws.choose(count - len(positives), len(negatives), image, purpose, 1)
    return positives, negatives[chosen.to(assigned.device)]
