"""How features use their space: effective rank and whitening, the controls of every k-NN figure."""

from __future__ import annotations

import torch
from torch import Tensor

from ibot import spectrum
from ibot.models.head import at_least_float32


def effective_rank(features: Tensor) -> float:
    """Directions that the centred features [n, D] fill (`ibot.spectrum`)."""
    features = at_least_float32(features)
    centred = (features - features.mean(dim=0)).double()
    return spectrum.effective_rank(torch.linalg.svdvals(centred).square())


def whiten(train: Tensor, test: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Both sets in the `dims` leading principal directions of `train` [n, D], of variance 1."""
    mean = train.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((train.double() - mean).T))
    keep = vectors[:, -dims:] / values[-dims:].clamp(min=1e-12).sqrt()
    return ((train.double() - mean) @ keep).float(), ((test.double() - mean) @ keep).float()
