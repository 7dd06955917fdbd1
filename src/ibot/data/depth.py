"""Stochastic depth's draws, keyed by image: which branches of the student a view goes through.

Each draw is a function of (seed, epoch, image, view, block, branch). So neither processes nor
micro-batches nor resumption change them, and a step asks for nothing random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.rng import Purpose, uniform


def branch_factors(
    rates: Sequence[float], num_views: int, seed: int, epoch: int, index: NDArray[np.int64]
) -> Tensor:
    """Factors of the branches (spec 3.1.4): float32 [num_blocks, 2, num_views * B], view-major.

    A branch is dropped, factor 0, with the rate of its block; else the factor is 1 / (1 - rate).

    Args:
        rates: of each block; at most `ibot.rng.MAX_DRAWS` / 2 (ValueError).
        num_views: of each image, global ones first.
        seed: of the training.
        epoch: of the step.
        index: [B], numbers of the images among all.
    """
    views = np.arange(num_views)[:, None]
    drawn = uniform(seed, epoch, index, views, Purpose.BRANCH, 2 * len(rates))  # [V, B, 2 * blocks]
    drawn = drawn.reshape(-1, len(rates), 2).transpose(1, 2, 0)
    rate = np.array(rates)[:, None, None]
    return torch.from_numpy(np.where(drawn < rate, 0, 1 / (1 - rate)).astype(np.float32, order="C"))
