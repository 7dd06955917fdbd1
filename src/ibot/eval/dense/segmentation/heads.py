"""What turns maps into scores of classes, and the loss (spec_evaluation 8.10, 8.11)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.data.annotated.label_coding import IGNORED
from ibot.eval.dense.norm import conv_norm
from ibot.models.layers import DropPath

POOLS = (1, 2, 3, 6)
"""Sides of the pooled maps of UPerNet."""
DROPOUT = 0.1
AUXILIARY_CHANNELS = 256
AUXILIARY_WEIGHT = 0.4
"""Of the auxiliary head's loss; the main one has 1."""


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [B, C, h, w] -> [B, C, *size], bilinear between cell centres, without antialias."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over pixels with a class and divided by all pixels (8.10).

    logits [B, C, h, w] are resized to labels int [B, H, W], `IGNORED` where there is no class.
    """
    logits = resized(logits.float(), labels.shape[-2:])
    total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


class ChannelDropout(DropPath):
    """Drops whole channels of an image's map; draws for every image of a step, as its base does."""

    def forward(self, maps: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Maps [B, C, h, w] -> the same, the channels that stay scaled by 1 / (1 - rate)."""
        if self.rate == 0.0 or not self.training:
            return maps
        images, channels = maps.shape[:2]
        drawn = torch.rand(images * self.parts, channels, device=maps.device)
        kept = (drawn[self.part :: self.parts] >= self.rate).to(maps.dtype)
        return maps * (kept / (1 - self.rate))[:, :, None, None]


class LinearHeads(nn.Module):
    """1 x 1 convolutions on the joined maps; coarser maps are resized to the first one.

    There is one for each learning rate that is tried, and all start from the same weights.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, count: int = 1) -> None:
        super().__init__()
        self.channels = tuple(channels)
        first = _scores(sum(channels), num_classes)
        self.classify = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(count - 1))])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, h_i, w_i] -> logits [B, classes, h_0, w_0] of each."""
        size = maps[0].shape[-2:]
        if all(one.shape[-2:] == size for one in maps):
            joined = torch.cat(list(maps), dim=1)
            return [classify(joined) for classify in self.classify]
        # Scores are resized in place of the many channels: the same, as both are linear.
        logits = []
        for classify in self.classify:
            assert isinstance(classify, nn.Conv2d) and classify.bias is not None
            weights = classify.weight.split(self.channels, dim=1)
            parts = [F.conv2d(m, w) for m, w in zip(maps, weights, strict=True)]
            total = torch.stack([resized(part, size) for part in parts]).sum(dim=0)
            logits.append(total + classify.bias[:, None, None])
        return logits


class UPerHead(nn.Module):
    """UPerNet: pooled context of the coarsest map, added from coarse to fine, all maps joined."""

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        """channels: of the four maps, finest first. width: C of all convolutions."""
        super().__init__()
        last = channels[-1]
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_norm(last, width, 1)) for side in POOLS
        )
        self.context = conv_norm(last + len(POOLS) * width, width, 3)
        self.lateral = nn.ModuleList(conv_norm(c, width, 1) for c in channels[:-1])
        self.smooth = nn.ModuleList(conv_norm(width, width, 3) for _ in channels[:-1])
        self.join = conv_norm(len(channels) * width, width, 3)
        self.dropout = ChannelDropout(DROPOUT)
        _initialise_convs(self)
        self.classify = _scores(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C_i, h_i, w_i], finest first -> logits [B, classes, h_0, w_0]."""
        last = maps[-1]
        pooled = [resized(pool(last), last.shape[-2:]) for pool in self.pools]
        levels = [lateral(m) for lateral, m in zip(self.lateral, maps[:-1], strict=True)]
        levels.append(self.context(torch.cat([last, *pooled], dim=1)))
        for finer in range(len(levels) - 2, -1, -1):
            coarser = resized(levels[finer + 1], levels[finer].shape[-2:])
            levels[finer] = levels[finer] + coarser
        smooth = [conv(level) for conv, level in zip(self.smooth, levels[:-1], strict=True)]
        size = smooth[0].shape[-2:]
        joined = torch.cat([resized(level, size) for level in (*smooth, levels[-1])], dim=1)
        return self.classify(self.dropout(self.join(joined)))


class AuxiliaryHead(nn.Module):
    """Scores of one map, for a second loss in training."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = conv_norm(channels, AUXILIARY_CHANNELS, 3)
        self.dropout = ChannelDropout(DROPOUT)
        _initialise_convs(self)
        self.classify = _scores(AUXILIARY_CHANNELS, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, h, w] -> logits [B, classes, h, w]."""
        return self.classify(self.dropout(self.conv(maps)))


def _scores(channels: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _initialise_convs(head: nn.Module) -> None:
    """As the published convolution blocks: normal, by the number of outputs."""
    for part in head.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
