"""The boxes that proposals start from: three shapes at each cell of each level (8.9.3).

Float boxes; torchvision's generator rounds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)
"""Height by width."""
SCALE = 8
"""Side of the square anchor in cells."""


def base_anchors(stride: int) -> Tensor:
    """Anchors [3, 4] of the cell at the origin. Stride 4: 45.25 x 22.63, 32 x 32, 22.63 x 45.25."""
    stretch = torch.tensor(RATIOS, dtype=torch.float64).sqrt()
    half = SCALE * stride / 2 * torch.stack([1 / stretch, stretch], dim=1)
    return torch.cat([-half, half], dim=1).float()


def level_anchors(grid: tuple[int, int], stride: int, device: torch.device | None = None) -> Tensor:
    """Anchors [h * w * 3, 4] of a level, row by row; cell (i, j) stands at i, j times the stride.

    A level's shapes vary fastest, as in its predictions.
    """
    y, x = (torch.arange(count, device=device) * stride for count in grid)
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + base_anchors(stride).to(device)).reshape(-1, 4)


def pyramid_anchors(grids: Sequence[tuple[int, int]], strides: Sequence[int]) -> list[Tensor]:
    """Those of each level, on the CPU."""
    return [level_anchors(grid, stride) for grid, stride in zip(grids, strides, strict=True)]
