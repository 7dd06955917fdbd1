"""What stands in the place of a network and has learnt nothing: pixels of an image, its colours.

Both are a `Backbone`, so that evaluations take them as they are. They are of whole images: the one
patch of an image is the image.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.config.reading import RGB
from ibot.models.contract import Backbone
from ibot.types import TokenOutput

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each channel."""

BINS = 8
"""Of each colour in a joint histogram."""
LEVEL_BINS = 32
"""Of each channel where they are no colours."""
WIDEST = 3.0
"""Deviations from the mean that those bins span on either side; the outer ones take the rest."""
MOST_BYTES = 2 << 30
"""Of rows of pixels that are made without being asked for: of 174,000 colour pictures."""


def bytes_of_pixels(images: int, channels: int, size: int = 32) -> int:
    """What rows of `Pixels` of so many images take."""
    return 4 * images * channels * size * size


class Plain(Backbone):
    """A row of numbers for each image, by arithmetic alone."""

    family = "plain image"

    def __init__(self, width: int, channels: tuple[str, ...], statistics: Statistics) -> None:
        """`width`: of the rows; images are normalised by `statistics`, as for any network."""
        super().__init__(
            embed_dim=width, patch_size=1, depths=(1,), statistics=statistics, channels=channels
        )

    @abstractmethod
    def rows(self, images: Tensor) -> Tensor:
        """Normalised images [B, C, H, W] -> float32 [B, D]."""

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """One patch, whatever the size."""
        return 1, 1

    def forward(
        self, images: Tensor, mask: Tensor | None = None, drop: Tensor | None = None
    ) -> TokenOutput:
        """The rows as class token and as the only patch. Raises ValueError for masked images, and
        for branches to drop.
        """
        if mask is not None or drop is not None:
            raise ValueError("a plain image has no mask token, and no blocks")
        rows = self.rows(images.float())
        return TokenOutput(rows, rows[:, None], (1, 1))

    def last_layers(self, images: Tensor, num: int, norm: bool = True) -> list[TokenOutput]:
        """That of `forward`. Raises ValueError for more than one block."""
        if num != 1:
            raise ValueError(f"asked for {num} blocks of a {self.family}")
        return [self(images)]

    def blocks_for_sharding(self) -> list[nn.Module]:
        """None."""
        return []


class Pixels(Plain):
    """The image at `size` x `size` pixels as numbers, each less its mean over its deviation.

    Mean and deviation are 0 and 1 until `fitted` has seen images. Pixels of larger images are means
    over areas; images of this size are taken as they are.
    """

    mean: Tensor
    """[D], D = C * size * size."""
    deviation: Tensor

    def __init__(
        self, statistics: Statistics, channels: tuple[str, ...] = RGB, size: int = 32
    ) -> None:
        super().__init__(len(channels) * size * size, channels, statistics)
        self.size = size
        self.register_buffer("mean", torch.zeros(self.embed_dim))
        self.register_buffer("deviation", torch.ones(self.embed_dim))

    def fitted(self, rows: Tensor) -> Self:
        """With mean and deviation of `rows` [n, D], such as this makes of the images of a bank."""
        self.mean = rows.float().mean(dim=0)
        spread = rows.float().std(dim=0) if len(rows) > 1 else torch.zeros_like(self.mean)
        self.deviation = spread.clamp(min=1e-6)
        return self

    def rows(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D]."""
        return self.standardised(
            F.interpolate(images, size=(self.size, self.size), mode="area").flatten(1)
        )

    def standardised(self, rows: Tensor) -> Tensor:
        """Rows [n, D] that were made before `fitted`, as they are made after it."""
        return (rows - self.mean) / self.deviation

    def __str__(self) -> str:
        return f"pixels at {self.size} x {self.size}"


class Colours(Plain):
    """Which colours an image has, wherever they are: square roots of the shares of a histogram.

    Of red, green and blue it is a joint one of `BINS` each; of other channels one of `LEVEL_BINS`
    for each. Cosines of such rows are Bhattacharyya coefficients of the histograms.
    """

    def __init__(self, statistics: Statistics, channels: tuple[str, ...] = RGB) -> None:
        self.joint = channels == RGB
        width = BINS**3 if self.joint else LEVEL_BINS * len(channels)
        super().__init__(width, channels, statistics)

    def rows(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D], of length 1."""
        codes = self._joint(images) if self.joint else self._each(images)
        own = torch.arange(len(images), device=images.device)[:, None] * self.embed_dim
        length = len(images) * self.embed_dim
        counts = torch.bincount((codes.flatten(1) + own).flatten(), minlength=length)
        return F.normalize(counts.view(len(images), self.embed_dim).float().sqrt(), dim=1)

    def _joint(self, images: Tensor) -> Tensor:
        """Bin of each pixel by its three levels in 0..1: int64 [B, H, W]."""
        mean, deviation = (images.new_tensor(part).view(-1, 1, 1) for part in self.statistics)
        bins = ((images * deviation + mean) * BINS).long().clamp(0, BINS - 1)
        return (bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]

    def _each(self, images: Tensor) -> Tensor:
        """Bin of each pixel in each channel by its normalised level: int64 [B, C, H, W]."""
        share = (images.clamp(-WIDEST, WIDEST) + WIDEST) / (2 * WIDEST)
        bins = (share * LEVEL_BINS).long().clamp(max=LEVEL_BINS - 1)
        first = torch.arange(images.shape[1], device=images.device) * LEVEL_BINS
        return bins + first.view(-1, 1, 1)

    def __str__(self) -> str:
        return f"colour histogram of {self.embed_dim} bins"
