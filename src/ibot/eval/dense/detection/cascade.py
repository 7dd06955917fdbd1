"""Three stages that find classes, boxes and masks, each starting where the one before ended
(spec_evaluation 8.9.4, 8.9.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from ibot.eval.dense.detection.assign import Draws, assign, sample
from ibot.eval.dense.detection.boxes import clip, decode, giou
from ibot.eval.dense.detection.heads import BOX_SIDE, MASK_SIDE, BoxHead, MaskHead, box_features
from ibot.eval.dense.detection.masks import SIDE, mask_targets, paste
from ibot.eval.dense.detection.target import Batch, Detections, Target
from ibot.models.head import at_least_float32
from ibot.rng import Purpose
from ibot.system.distributed import sum_in_place

POSITIVE_SHARE = 0.25
"""Most positives among the sampled boxes of an image."""
BOX_WEIGHT = 10.0
"""Of the loss of the boxes."""
LEAST_SCORE = 0.05
SUPPRESS = 0.5
"""IoU above which the less likely one of two detections of a class goes."""
MOST_DETECTIONS = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """What distinguishes the stages."""

    least_iou: float
    """With which a box has an object."""
    stds: tuple[float, float, float, float]
    """By which deltas are multiplied."""
    weight: float
    """Of its losses."""
    purpose: Purpose
    """Of its draws."""


STAGES = (
    Stage(0.5, (0.1, 0.1, 0.2, 0.2), 1.0, Purpose.DETECTION_BOXES_1),
    Stage(0.6, (0.05, 0.05, 0.1, 0.1), 0.5, Purpose.DETECTION_BOXES_2),
    Stage(0.7, (0.033, 0.033, 0.067, 0.067), 0.25, Purpose.DETECTION_BOXES_3),
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The boxes of an image that a stage learns from, those with an object first."""

    boxes: Tensor
    """float32 [n, 4]."""
    labels: Tensor
    """int64 [n]; the number of classes for background."""
    objects: Tensor
    """int64 [p], of the first p boxes the number of their object."""
    goals: Tensor
    """float32 [p, 4], and its box."""
    copied: Tensor
    """bool [n], whether the box is that of the object itself."""


def stage_samples(
    proposals: Tensor,
    target: Target,
    stage: Stage,
    *,
    count: int,
    num_classes: int,
    draws: Draws,
    image: int,
) -> Sampled:
    """Choose at most `count` boxes [n, 4] of an image; those of the objects are among them."""
    num_objects = len(target.boxes)
    overlaps = box_iou(target.boxes, proposals)
    own = torch.arange(num_objects, device=proposals.device)
    assigned = torch.cat([own, assign(overlaps, stage.least_iou, stage.least_iou)])
    chosen, others = sample(assigned, count, POSITIVE_SHARE, draws, image, stage.purpose)
    objects = assigned[chosen]
    background = objects.new_full((len(others),), num_classes)
    place = torch.cat([chosen, others])
    return Sampled(
        torch.cat([target.boxes, proposals])[place],
        torch.cat([target.labels[objects], background]),
        objects,
        target.boxes[objects],
        place < num_objects,
    )


def shared_counts(counts: Sequence[int], device: torch.device) -> Tensor:
    """Means over the processes of what each has counted, float32 [k]; by these, sums of losses
    become what one process would find for all images, as gradients are averaged.

    None is 0.
    """
    total = sum_in_place(torch.tensor([*counts, 1], dtype=torch.float32, device=device))
    return total[:-1].clamp(min=1) / total[-1]


def refined(
    boxes: Tensor, deltas: Tensor, labels: Tensor, stage: Stage, size: tuple[int, int]
) -> Tensor:
    """Boxes [n, 4] moved by their delta of [n, classes, 4] for the class `labels` int64 [n]."""
    own = deltas[torch.arange(len(boxes), device=boxes.device), labels]
    return clip(decode(boxes, own, stage.stds), size)


class Cascade(nn.Module):
    """The heads of all stages."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        num_classes: int,
        *,
        norm: str,
        masks: bool,
        strides: Sequence[int],
        samples: int,
    ) -> None:
        """Build them for maps of `channels` and `strides`, `samples` boxes per image and stage."""
        super().__init__()
        self.num_classes, self.strides, self.samples = num_classes, tuple(strides), samples
        self.box_heads = nn.ModuleList(BoxHead(channels, hidden, num_classes, norm) for _ in STAGES)
        self.mask_heads = nn.ModuleList(
            MaskHead(channels, num_classes) for _ in (STAGES if masks else ())
        )

    def losses(
        self, levels: Sequence[Tensor], batch: Batch, proposals: Sequence[Tensor], draws: Draws
    ) -> dict[str, Tensor]:
        """Weighted losses by name, such as `class_1`, `box_1` and `mask_1` of the first stage.

        levels: maps [B, C, h, w] of the strides. proposals: [n, 4] of each image.
        """
        levels = [at_least_float32(one) for one in levels]  # once, as the pooling would each time
        losses: dict[str, Tensor] = {}
        for i, stage in enumerate(STAGES):
            sampled = [
                stage_samples(
                    boxes,
                    target,
                    stage,
                    count=self.samples,
                    num_classes=self.num_classes,
                    draws=draws,
                    image=image,
                )
                for boxes, target, image in zip(proposals, batch.targets, batch.index, strict=True)
            ]
            boxes = [one.boxes for one in sampled]
            numbers = [sum(map(len, boxes)), sum(len(one.objects) for one in sampled)]
            count, positives = shared_counts(numbers, levels[0].device)
            logits, deltas = self._boxes(i, levels, boxes)
            found = stage_losses(logits, deltas, sampled, stage, count)
            if self.mask_heads:
                found["mask"] = self._mask_loss(i, levels, batch, sampled) / positives
            losses |= {f"{name}_{i + 1}": stage.weight * loss for name, loss in found.items()}
            if i < len(STAGES) - 1:
                proposals = self._next(sampled, logits.detach(), deltas.detach(), stage, batch)
        return losses

    @torch.no_grad()
    def detect(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        factors: Sequence[tuple[float, float]],
    ) -> list[Detections]:
        """What is found in each image, at the size it had before it was resized by `factors`."""
        levels = [at_least_float32(one) for one in levels]
        boxes, total, deltas = list(proposals), torch.zeros(()), torch.zeros(())
        for i, stage in enumerate(STAGES):
            logits, deltas = self._boxes(i, levels, boxes)
            total = logits if i == 0 else total + logits
            if i < len(STAGES) - 1:
                likely = logits[:, :-1].argmax(dim=1)
                counts = [len(box) for box in boxes]
                boxes = [
                    refined(box, delta, label, stage, size)
                    for box, delta, label, size in zip(
                        boxes, deltas.split(counts), likely.split(counts), sizes, strict=True
                    )
                ]
        probs = (total / len(STAGES)).softmax(dim=1)
        counts = [len(box) for box in boxes]
        found = []
        for image, (box, delta, prob) in enumerate(
            zip(boxes, deltas.split(counts), probs.split(counts), strict=True)
        ):
            every = clip(decode(box[:, None], delta, STAGES[-1].stds), sizes[image])
            scale = _scale(factors[image], box)
            best, scores, labels = select(every / scale, prob[:, :-1])
            masks = None
            if self.mask_heads:
                of_image = [one[image : image + 1] for one in levels]
                maps = self._mask_probs(of_image, best * scale, labels)
                size = [round(s / f) for s, f in zip(sizes[image], factors[image], strict=True)]
                masks = paste(maps, best, (size[0], size[1]))
            found.append(Detections(best, scores, labels, masks))
        return found

    def _boxes(
        self, i: int, levels: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        return self.box_heads[i](box_features(levels, self.strides, boxes, BOX_SIDE))

    def _mask_loss(
        self, i: int, levels: Sequence[Tensor], batch: Batch, sampled: Sequence[Sampled]
    ) -> Tensor:
        """Sum over the boxes with an object of the mean cross-entropy of their pixels, in nats."""
        boxes = [one.boxes[: len(one.objects)] for one in sampled]
        labels = torch.cat([one.labels[: len(one.objects)] for one in sampled])
        logits = self.mask_heads[i](box_features(levels, self.strides, boxes, MASK_SIDE))
        own = logits[torch.arange(len(labels), device=labels.device), labels]
        padded = (batch.images.shape[2], batch.images.shape[3])
        truth = []
        for box, one, target in zip(boxes, sampled, batch.targets, strict=True):
            assert target.masks is not None
            truth.append(mask_targets(target.masks, box, one.objects, padded))
        loss = F.binary_cross_entropy_with_logits(own, torch.cat(truth), reduction="sum")
        return loss / SIDE**2 + logits.sum() * 0

    def _next(
        self,
        sampled: Sequence[Sampled],
        logits: Tensor,
        deltas: Tensor,
        stage: Stage,
        batch: Batch,
    ) -> list[Tensor]:
        """Where the next stage starts: the refined boxes without the copies of objects."""
        proposals, counts = [], [len(one.boxes) for one in sampled]
        for one, logit, delta, size in zip(
            sampled, logits.split(counts), deltas.split(counts), batch.sizes, strict=True
        ):
            likely = logit[:, :-1].argmax(dim=1)
            labels = torch.where(one.labels == self.num_classes, likely, one.labels)
            moved = refined(one.boxes, delta, labels, stage, size)
            proposals.append(moved[~one.copied])
        return proposals

    def _mask_probs(self, levels: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Mean over the stages for the boxes [k, 4] of one image and their classes: [k, 28, 28]."""
        features = box_features(levels, self.strides, [boxes], MASK_SIDE)
        each = torch.arange(len(labels), device=labels.device)
        maps = [head(features)[each, labels].sigmoid() for head in self.mask_heads]
        return torch.stack(maps).mean(dim=0)


def stage_losses(
    logits: Tensor, deltas: Tensor, sampled: Sequence[Sampled], stage: Stage, count: Tensor
) -> dict[str, Tensor]:
    """Losses of classes and of boxes: sums divided by `count`, which counts all samples.

    Cross-entropy in nats over classes and background; 1 - GIoU of the decoded boxes of the
    positives' true classes, not clipped.
    """
    labels = torch.cat([one.labels for one in sampled])
    wrong = F.cross_entropy(logits, labels, reduction="sum")
    off = deltas.sum() * 0
    counts = [len(one.boxes) for one in sampled]
    for one, delta in zip(sampled, deltas.split(counts), strict=True):
        positives = len(one.objects)
        own = delta[torch.arange(positives, device=delta.device), one.labels[:positives]]
        boxes = decode(one.boxes[:positives], own, stage.stds)
        off = off + (1 - giou(boxes, one.goals)).sum()
    return {"class": wrong / count, "box": BOX_WEIGHT * off / count}


def select(boxes: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of an image, best first: boxes [k, 4], scores [k], labels int64 [k].

    Args:
        boxes: [n, classes, 4].
        probs: [n, classes], without the background.
    """
    row, labels = (probs > LEAST_SCORE).nonzero(as_tuple=True)
    chosen, scores = boxes[row, labels], probs[row, labels]
    best = batched_nms(chosen, scores, labels, SUPPRESS)[:MOST_DETECTIONS]
    return chosen[best], scores[best], labels[best]


def _scale(factor: tuple[float, float], like: Tensor) -> Tensor:
    """[4], by which boxes of the original image are multiplied."""
    y, x = factor
    return like.new_tensor([x, y, x, y])
