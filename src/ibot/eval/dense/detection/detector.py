"""Cascade Mask R-CNN on any backbone (spec_evaluation 8.9.2 to 8.9.8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibot.eval.dense.checkpointing import recompute_blocks
from ibot.eval.dense.detection.anchors import level_anchors
from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.cascade import Cascade, shared_counts
from ibot.eval.dense.detection.fpn import FeaturePyramid
from ibot.eval.dense.detection.heads import BoxHead, MaskHead
from ibot.eval.dense.detection.rpn import (
    ProposalHead,
    anchor_targets,
    proposal_losses,
    propose,
)
from ibot.eval.dense.detection.settings import DetectionSettings
from ibot.eval.dense.detection.target import Batch, Detections
from ibot.eval.dense.pyramid import Pyramid
from ibot.eval.tune.layer_decay import layer_of
from ibot.models.contract import Backbone
from ibot.rng import Purpose, torch_seed


class Detector(nn.Module):
    """Backbone -> four maps -> five levels -> proposals -> three stages."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        settings: DetectionSettings,
        *,
        masks: bool = True,
        seed: int = 0,
    ) -> None:
        """Put new heads on `backbone`, which is trained in place without its final norm.

        Args:
            backbone: pre-trained. It gets the settings' stochastic depth and position table.
            num_classes: C, without the background.
            settings: of the network and of the samples.
            masks: whether there are masks to learn.
            seed: of the new weights.
        """
        super().__init__()
        self.settings = settings
        _prepare(backbone, settings)
        self.backbone = backbone
        with torch.random.fork_rng([]):
            torch.manual_seed(torch_seed(seed, 0, 0, Purpose.INIT))
            self.pyramid = Pyramid.of(backbone)
            channels = settings.channels
            self.fpn = FeaturePyramid(self.pyramid.channels, channels)
            self.rpn = ProposalHead(channels)
            self.cascade = Cascade(
                channels,
                settings.hidden,
                num_classes,
                norm=settings.norm,
                masks=masks,
                strides=self.pyramid.strides,
                samples=settings.samples,
            )
            for module in (self.fpn, self.rpn, self.cascade):
                module.apply(_initialise)
            _normal(self.rpn, 0.01)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of the five levels."""
        return (*self.pyramid.strides, 2 * self.pyramid.strides[-1])

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The losses."""
        return self.losses(batch, draws)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what is trained. All parameters get a gradient,
        whatever is to be seen in the images.

        With several processes each divides by what all have counted.
        """
        levels = self._levels(batch.images)
        anchors, said = self._anchors(levels), self.rpn(levels)
        targets = [
            anchor_targets(
                torch.cat(anchors),
                size,
                target,
                count=self.settings.anchors,
                draws=draws,
                image=image,
            )
            for size, target, image in zip(batch.sizes, batch.targets, batch.index, strict=True)
        ]
        count = shared_counts([sum(one.count for one in targets)], batch.images.device)[0]
        score, delta = proposal_losses(said, targets, count)
        proposals = propose(said, anchors, batch.sizes, self.settings.proposals)
        stages = self.cascade.losses(levels[:-1], batch, proposals, draws)
        return {"proposal_class": score, "proposal_box": delta, **stages}

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """What is found in each image, at the size that its file has."""
        levels = self._levels(batch.images)
        anchors, said = self._anchors(levels), self.rpn(levels)
        proposals = propose(said, anchors, batch.sizes, self.settings.test_proposals)
        return self.cascade.detect(levels[:-1], proposals, batch.sizes, batch.factors)

    def _levels(self, images: Tensor) -> list[Tensor]:
        """Five maps [B, channels, h, w]."""
        maps = self.backbone.maps_after(images, self.backbone.pyramid_blocks)
        return self.fpn(self.pyramid(maps))

    def _anchors(self, levels: list[Tensor]) -> list[Tensor]:
        grids = [(one.shape[2], one.shape[3]) for one in levels]
        return [
            level_anchors(grid, stride, levels[0].device)
            for grid, stride in zip(grids, self.strides, strict=True)
        ]


def _prepare(backbone: Backbone, settings: DetectionSettings) -> None:
    """What is trained of a backbone, and how it computes."""
    height, width = settings.table
    if height and width:
        backbone.resize_positions((height, width), "exact")
    backbone.set_drop_path(settings.drop_path)
    backbone.freeze_mask_token()
    # The final norm is not used; without a gradient, processes would wait for it.
    for name, parameter in backbone.named_parameters():
        if layer_of(name, backbone.depths) > backbone.num_blocks:
            parameter.requires_grad_(False)
    if settings.checkpointing:
        recompute_blocks(backbone)


def _initialise(module: nn.Module) -> None:
    """Fresh layers by where they stand; those of mmdetection 2.11 (8.9.2 to 8.9.4)."""
    if isinstance(module, FeaturePyramid):
        for conv in (*module.lateral, *module.smooth):
            nn.init.xavier_uniform_(conv.weight)  # pyright: ignore
    if isinstance(module, BoxHead | MaskHead):
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, BoxHead):
        nn.init.xavier_uniform_(module.fc.weight)
        nn.init.normal_(module.score.weight, std=0.01)
        nn.init.normal_(module.delta.weight, std=0.001)
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias":
            nn.init.zeros_(parameter)


def _normal(module: nn.Module, std: float) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=std)
