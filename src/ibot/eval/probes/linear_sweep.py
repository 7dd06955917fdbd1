"""Linear classifiers on frozen features, many learning rates at once (spec_evaluation 8.2).

The rates share every batch: their weights lie in one tensor [R, C, D], so that the scores of all
are one product and the gradients another. Softmax regression is simple enough to write its gradient
down: no graph is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibot.rng import Purpose, torch_seed
from ibot.system.distributed import sum_in_place

MOMENTUM = 0.9
LARS_TRUST = 0.001


@dataclass(frozen=True, slots=True)
class Optimizer:
    """How the classifiers are trained, but for their rates."""

    name: str = "sgd"
    """sgd or lars."""
    weight_decay: float = 0.0


class LinearSweep:
    """R linear classifiers from features [B, D] to C classes, one for each learning rate.

    Each equals a classifier trained alone with its rate: the start depends on seed and rate only.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        rates: Sequence[float],
        *,
        seed: int = 0,
        optimizer: Optimizer = Optimizer(),
        device: torch.device | str = "cpu",
    ) -> None:
        """rates: as used, after scaling with the batch. Raises ValueError without any."""
        if not rates:
            raise ValueError("a sweep needs at least one rate")
        self.rates = tuple(rates)
        self.optimizer = optimizer
        self.weight = torch.stack([_start(classes, dim, rate, seed) for rate in rates]).to(device)
        self.bias = torch.zeros(len(rates), classes, device=device)
        self.weight_momentum = torch.zeros_like(self.weight)
        self.bias_momentum = torch.zeros_like(self.bias)
        self._rate = torch.tensor(self.rates, device=device)

    def logits(self, features: Tensor) -> Tensor:
        """Scores [R, B, C] of features [B, D]."""
        flat = features @ self.weight.flatten(0, 1).T + self.bias.flatten()
        return flat.unflatten(1, self.bias.shape).transpose(0, 1)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, factor: float, total: int = 0) -> None:
        """One step on features [B, D] with labels int64 [B]; every rate times `factor`.

        total: rows of the step over all processes, which divides the sum of their gradients; 0: B.
        """
        # Rows last: softmax and sums then run along contiguous memory also where there are few
        # classes.
        scores = torch.addmm(self.bias.flatten()[:, None], self.weight.flatten(0, 1), features.T)
        slope = scores.view(*self.bias.shape, -1).softmax(dim=1)  # [R, C, B]
        picked = labels.expand(len(self.rates), 1, -1)
        slope.scatter_add_(1, picked, slope.new_tensor(-1.0).expand(picked.shape))
        flat = slope.flatten(0, 1)
        weight_grad, bias_grad = flat @ features, flat.sum(dim=1)
        for gradient in (weight_grad, bias_grad):
            sum_in_place(gradient.div_(total or len(labels)))
        self._update(
            weight_grad.view_as(self.weight), bias_grad.view_as(self.bias), self._rate * factor
        )

    def _update(self, weight_grad: Tensor, bias_grad: Tensor, rate: Tensor) -> None:
        """SGD with momentum, rates [R]; LARS scales the gradient of each weight matrix first."""
        if self.optimizer.weight_decay:
            weight_grad.add_(self.weight, alpha=self.optimizer.weight_decay)
            if self.optimizer.name == "sgd":
                bias_grad.add_(self.bias, alpha=self.optimizer.weight_decay)
        if self.optimizer.name == "lars":
            size, slope = (tensor.flatten(1).norm(dim=1) for tensor in (self.weight, weight_grad))
            trust = torch.where(
                (size > 0) & (slope > 0), LARS_TRUST * size / slope, torch.ones_like(size)
            )
            weight_grad.mul_(trust[:, None, None])
        for value, momentum, gradient in (
            (self.weight, self.weight_momentum, weight_grad),
            (self.bias, self.bias_momentum, bias_grad),
        ):
            momentum.mul_(MOMENTUM).add_(gradient)
            value.addcmul_(momentum, rate.view(-1, *[1] * (value.ndim - 1)), value=-1)

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes."""
        names = ("weight", "bias", "weight_momentum", "bias_momentum")
        return {name: getattr(self, name).detach().cpu() for name in names}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


def cosine_factor(epoch: int, epochs: int) -> float:
    """Share of the rate in `epoch`: from 1 towards 0, changed between epochs."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def _start(classes: int, dim: int, rate: float, seed: int) -> Tensor:
    """Weights [C, D] from N(0, 0.01)."""
    # The rate as a whole number of 1e-9 steps keys the draw, so that a sweep and a single run begin
    # alike.
    generator = torch.Generator().manual_seed(torch_seed(seed, round(rate * 1e9), 0, Purpose.INIT))
    return 0.01 * torch.randn(classes, dim, generator=generator)
