"""How features use their space: effective rank and whitening, the controls of every k-NN figure."""

from __future__ import annotations

import torch
from torch import Tensor

from ibot.models.head import at_least_float32


def effective_rank(features: Tensor) -> float:
    """Exp of the entropy of the normalised squared singular values of the centred features [n,
    D].
    """
    features = at_least_float32(features)
    energy = torch.linalg.svdvals((features - features.mean(dim=0)).double()).square()
    if energy.sum() <= 0:
        return 1.0
    return torch.special.entr(energy / energy.sum()).sum().exp().item()


def whiten(train: Tensor, test: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Both sets in the `dims` leading principal directions of `train` [n, D], each scaled to
    variance 1.
    """
    mean = train.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((train.double() - mean).T))
    keep = vectors[:, -dims:] / values[-dims:].clamp(min=1e-12).sqrt()
    return ((train.double() - mean) @ keep).float(), ((test.double() - mean) @ keep).float()
