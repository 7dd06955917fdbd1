"""What each stage of the cascade says of a box: its class, its place, its mask (8.9.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from ibot.eval.dense.detection.masks import SIDE
from ibot.eval.dense.norm import BatchNorm
from ibot.models.head import at_least_float32

BOX_SIDE = 7
"""Cells of a box's features."""
FINEST = 14
"""Cells of the finest map, of stride 4: 56 pixels. A box of a side of less than twice as many is
looked at there."""
NUM_CONVS = 4


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The level int64 [n] at which each box [n, 4] is looked at; of the published strides 4 to 32
    that is 0 below 112 pixels, 1 below 224, 2 below 448, else 3.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    level = (sides / (FINEST * strides[0]) + 1e-6).log2().floor()
    return level.clamp(0, len(strides) - 1).long()


def box_features(
    levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], side: int
) -> Tensor:
    """Features [n, C, side, side] of the boxes [n_i, 4] of each image, one behind the other.

    levels: maps [B, C, h, w], finest first; the pooling averages as many points as a cell spans.
    """
    image = torch.cat([box.new_full((len(box), 1), i) for i, box in enumerate(boxes)])
    rois = torch.cat([image, torch.cat(list(boxes))], dim=1)
    at = level_of(rois[:, 1:], strides)
    shape = (len(rois), levels[0].shape[1], side, side)
    features = levels[0].new_zeros(shape)
    for level, (one, stride) in enumerate(zip(levels, strides, strict=True)):
        here = (at == level).nonzero()[:, 0]
        cut = roi_align(one, rois[here], side, 1 / stride, sampling_ratio=0, aligned=True)
        features = features.index_put((here,), cut.to(features.dtype))
    return features


class BoxHead(nn.Module):
    """Convolutions and a hidden layer, then the class and a delta for each class."""

    def __init__(self, channels: int, hidden: int, num_classes: int, norm: str) -> None:
        """For `num_classes` classes without the background; `norm`: batch or group."""
        super().__init__()
        self.num_classes = num_classes
        self.convs = nn.Sequential(*(_conv(channels, norm) for _ in range(NUM_CONVS)))
        self.fc = nn.Linear(channels * BOX_SIDE**2, hidden)
        self.score = nn.Linear(hidden, num_classes + 1)
        self.delta = nn.Linear(hidden, 4 * num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[n, C, 7, 7] -> logits float32 [n, classes + 1], background last, and deltas float32
        [n, classes, 4].
        """
        x = torch.relu(self.fc(self.convs(features).flatten(1)))
        logits, deltas = at_least_float32(self.score(x)), at_least_float32(self.delta(x))
        return logits, deltas.unflatten(1, (self.num_classes, 4))


def _conv(channels: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    # The name of the norm layer decides nothing here: see `parameter_groups` of the training.
    kind = BatchNorm(channels) if norm == "batch" else nn.GroupNorm(32, channels)
    return nn.Sequential(conv, kind, nn.ReLU())


class MaskHead(nn.Module):
    """Convolutions, twice the cells, then a map for each class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(NUM_CONVS)]
        self.convs = nn.Sequential(*(part for conv in convs for part in (conv, nn.ReLU())))
        self.twice = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[n, C, 14, 14] -> logits float32 [n, classes, 28, 28]."""
        return at_least_float32(self.score(torch.relu(self.twice(self.convs(features)))))


MASK_SIDE = SIDE // 2
"""Cells of a mask head's features."""
