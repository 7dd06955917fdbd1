"""Learning rates and images of each step (spec_evaluation 8.11)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ibot.rng import permutation
from ibot.system.processes import Processes

WARMUP_START = 1e-6
"""Share of the rate in the first step."""


def poly_rate(step: int, base: float, iterations: int, warmup: int) -> float:
    """Rate of a step, from 0: falls to zero in a line, below a linear warm-up."""
    rate = base * (1 - step / iterations)
    if step >= warmup:
        return rate
    return rate * (1 - (1 - step / warmup) * (1 - WARMUP_START))


def rate_groups(
    heads: Iterable[nn.Module], rates: Sequence[float], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups of heads with a learning rate each, as `lr_scale`; biases do not decay."""
    return [
        {"params": [parameter], "lr_scale": rate, "weight_decay": decay}
        for head, rate in zip(heads, rates, strict=True)
        for parameter, decay in ((head.weight, weight_decay), (head.bias, 0.0))
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one step."""

    step: int
    place: int
    """In the batch of all processes."""
    index: int
    """Number of the image."""


@dataclass(frozen=True, slots=True)
class StepImages:
    """The images of this process's micro-batches: a batch sampler.

    Passes over all images follow each other without a gap, each in an order of its own; of a step's
    images part p of P has those at the places p, p + P, ..., as stochastic depth counts them.
    """

    num_images: int
    batch: int
    """Over all processes."""
    iterations: int
    seed: int
    processes: Processes
    start: int = 0
    """Step to begin with."""
    micro_batches: int = 1
    """Of each process in a step."""

    def __iter__(self) -> Iterator[list[Sample]]:
        known, order = -1, None
        for step in range(self.start, self.iterations):
            samples = []
            for place in range(self.batch):
                epoch, position = divmod(step * self.batch + place, self.num_images)
                if epoch != known:
                    known, order = epoch, permutation(self.seed, epoch, self.num_images)
                assert order is not None
                samples.append(Sample(step, place, int(order[position])))
            parts = self.micro_batches * self.processes.world_size
            for part in range(self.processes.rank, parts, self.processes.world_size):
                yield samples[part::parts]
