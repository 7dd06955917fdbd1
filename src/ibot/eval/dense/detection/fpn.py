"""Feature pyramid: all levels of one width, the coarse ones added to the fine ones (8.9.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Lateral 1 x 1 convolutions, sums from the coarsest level down, 3 x 3 convolutions.

    A last level is every second cell of the coarsest. Neither norms nor activations.
    """

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_l, h_l, w_l], finest first -> [B, channels, h_l, w_l] and one more level."""
        levels = [conv(one) for conv, one in zip(self.lateral, maps, strict=True)]
        for fine in reversed(range(len(levels) - 1)):
            size = levels[fine].shape[-2:]
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size=size)
        levels = [conv(one) for conv, one in zip(self.smooth, levels, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
