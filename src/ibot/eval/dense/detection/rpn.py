"""Proposals: at each cell of each level, how likely three anchors hold an object, and where it
really is (spec_evaluation 8.9.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from ibot.eval.dense.detection.anchors import RATIOS
from ibot.eval.dense.detection.assign import Draws, assign, sample
from ibot.eval.dense.detection.boxes import clip, decode, encode
from ibot.eval.dense.detection.target import Target
from ibot.models.head import at_least_float32
from ibot.rng import Purpose

POSITIVE, NEGATIVE, LEAST = 0.7, 0.3, 0.3
"""IoU from which an anchor has an object, below which it has none, and at which an object may take
its nearest anchor."""
POSITIVE_SHARE = 0.5
"""Most positives among the sampled anchors."""
BETA = 1 / 9
"""Where smooth L1 turns from a square to a line."""
SUPPRESS = 0.7
"""IoU above which the lower one of two proposals of a level goes."""


class ProposalHead(nn.Module):
    """Convolutions that all levels share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.score = nn.Conv2d(channels, len(RATIOS), 1)
        self.delta = nn.Conv2d(channels, 4 * len(RATIOS), 1)

    def forward(self, levels: Sequence[Tensor]) -> Predictions:
        """Maps [B, C, h, w] of each level -> what is said of each anchor."""
        scores, deltas = [], []
        for one in levels:
            x = F.relu(self.conv(one))
            score, delta = at_least_float32(self.score(x)), at_least_float32(self.delta(x))
            scores.append(score.permute(0, 2, 3, 1).flatten(1))
            deltas.append(delta.permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return Predictions(scores, deltas)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of the anchors of each level, in the order of `ibot.eval.dense.detection.anchors`."""

    scores: list[Tensor]
    """float32 [B, n], logits."""
    deltas: list[Tensor]
    """float32 [B, n, 4]."""


@dataclass(frozen=True, slots=True)
class AnchorTargets:
    """What is learned from the anchors of an image."""

    positives: Tensor
    """int64 [p], of all levels one behind the other."""
    negatives: Tensor
    """int64 [q]."""
    deltas: Tensor
    """float32 [p, 4]."""

    @property
    def count(self) -> int:
        """Anchors learned from."""
        return len(self.positives) + len(self.negatives)


def anchor_targets(
    anchors: Tensor,
    size: tuple[int, int],
    target: Target,
    *,
    count: int,
    draws: Draws,
    image: int,
) -> AnchorTargets:
    """Choose anchors of an image and what they should say.

    Args:
        anchors: float32 [n, 4]. Those not inside of the image are ignored.
        size: height and width of the image without padding.
        target: its objects.
        count: how many anchors to learn from, at most.
        draws: which ones.
        image: its number.
    """
    height, width = size
    right, bottom = anchors[:, 2] < width, anchors[:, 3] < height
    inside = ((anchors[:, :2] >= 0).all(dim=1) & right & bottom).nonzero()[:, 0]
    assigned = assign(box_iou(target.boxes, anchors[inside]), POSITIVE, NEGATIVE, LEAST)
    purpose = Purpose.DETECTION_ANCHORS
    positives, negatives = sample(assigned, count, POSITIVE_SHARE, draws, image, purpose)
    goals = target.boxes[assigned[positives]]
    deltas = encode(anchors[inside[positives]], goals)
    return AnchorTargets(inside[positives], inside[negatives], deltas)


def proposal_losses(
    said: Predictions, targets: Sequence[AnchorTargets], count: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses of scores and of deltas, sums over the chosen anchors divided by `count`.

    Cross-entropy in nats of object or none; smooth L1 summed over the four deltas of positives.
    """
    scores, deltas = torch.cat(said.scores, dim=1), torch.cat(said.deltas, dim=1)
    wrong, off = scores.sum() * 0, deltas.sum() * 0
    for i, target in enumerate(targets):
        logits = scores[i, torch.cat([target.positives, target.negatives])]
        truth = torch.zeros_like(logits)
        truth[: len(target.positives)] = 1
        wrong = wrong + F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        off = off + F.smooth_l1_loss(
            deltas[i, target.positives], target.deltas, reduction="sum", beta=BETA
        )
    return wrong / count, off / count


@torch.no_grad()
def propose(
    said: Predictions, anchors: Sequence[Tensor], sizes: Sequence[tuple[int, int]], count: int
) -> list[Tensor]:
    """The boxes [k, 4] of each image that are most likely objects, best first, k <= `count`.

    On each level the best `count` are decoded and suppress each other; levels do not.
    """
    proposals = []
    for i, size in enumerate(sizes):
        boxes, scores = [], []
        for level_scores, level_deltas, level_anchors in zip(
            said.scores, said.deltas, anchors, strict=True
        ):
            score, best = level_scores[i].topk(min(count, level_scores.shape[1]))
            box = clip(decode(level_anchors[best], level_deltas[i, best]), size)
            kept = nms(box, score, SUPPRESS)
            boxes.append(box[kept])
            scores.append(score[kept])
        best = torch.cat(scores).argsort(descending=True, stable=True)[:count]
        proposals.append(torch.cat(boxes)[best])
    return proposals
