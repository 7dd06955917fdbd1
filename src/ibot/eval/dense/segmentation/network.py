"""A backbone with a segmentation head (spec_evaluation 8.10, 8.11)."""

from __future__ import annotations

from itertools import repeat
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ibot.eval.dense.checkpointing import recompute_blocks
from ibot.eval.dense.pyramid import Pyramid
from ibot.eval.dense.segmentation.heads import (
    AUXILIARY_WEIGHT,
    AuxiliaryHead,
    LinearHeads,
    UPerHead,
    pixel_loss,
)
from ibot.eval.dense.segmentation.settings import Head
from ibot.models.contract import Backbone
from ibot.rng import Purpose, torch_seed


class Segmenter(nn.Module):
    """Normalised images [B, 3, H, W] -> logits [B, C, h, w] of each head.

    Linear heads: one for each learning rate. UPerNet, and in training its auxiliary head too.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        num_classes: int,
        *,
        rates: int = 1,
        channels: int = 0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        """Put a new head on `backbone`.

        Args:
            backbone: pre-trained. Below a linear head it is frozen and stays in evaluation mode,
                below UPerNet it is trained in place.
            head: which one.
            num_classes: C.
            rates: learning rates, of which each trains a linear head of its own.
            channels: width of UPerNet; 0: that of the tokens.
            drop_path: stochastic depth of a trained backbone.
            checkpointing: see `ibot.eval.dense.checkpointing`.
            seed: of the new layers' weights.
        """
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.frozen = head == "linear"
        shapes = [backbone.map_shape(block) for block in backbone.pyramid_blocks]
        # The maps of a network in stages get a norm each by the pyramid (8.9.6).
        self.norm = self.frozen or len(backbone.depths) == 1
        with torch.random.fork_rng([]):
            torch.manual_seed(torch_seed(seed, 0, 0, Purpose.INIT))
            if self.frozen:
                self.pyramid = self.auxiliary = None
                self.head = LinearHeads([shape.channels for shape in shapes], num_classes, rates)
            else:
                self.pyramid = Pyramid(shapes)
                widths, width = self.pyramid.channels, channels or backbone.embed_dim
                self.head = UPerHead(widths, width, num_classes)
                self.auxiliary = AuxiliaryHead(widths[2], num_classes)
        if self.frozen:
            backbone.requires_grad_(False)
            return
        backbone.set_drop_path(drop_path)
        backbone.freeze_mask_token()
        self._freeze_unused()
        if checkpointing:
            recompute_blocks(backbone)

    def train(self, mode: bool = True) -> Self:
        """A frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """See above."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.backbone.maps_after(images, self.backbone.pyramid_blocks, norm=self.norm)
        if self.pyramid is None:
            return self.head(maps)
        levels = self.pyramid(maps)
        logits = [self.head(levels)]
        if self.training and self.auxiliary is not None:
            logits.append(self.auxiliary(levels[2]))
        return logits

    def _freeze_unused(self) -> None:
        """Parameters that no map depends on would be waited for by the other processes."""
        side = 2 * self.backbone.patch_size
        mode = self.backbone.training
        self.backbone.eval()
        image = torch.zeros(1, 3, side, side, device=next(self.parameters()).device)
        with torch.enable_grad():
            maps = self.backbone.maps_after(image, self.backbone.pyramid_blocks, norm=self.norm)
            torch.stack([one.sum() for one in maps]).sum().backward()
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.backbone.train(mode)

    def loss(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        """Summed losses of linear heads, which share nothing; else with the auxiliary head's."""
        if self.frozen and len(logits) > 1:
            compute, weights = _recomputed_loss, repeat(1.0)
        else:
            compute, weights = pixel_loss, (1.0, AUXILIARY_WEIGHT)
        losses = [w * compute(one, labels) for w, one in zip(weights, logits, strict=False)]
        return torch.stack(losses).sum()


def _recomputed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`pixel_loss`; of many heads the scores of one at the size of the labels are held at once."""
    loss = checkpoint(pixel_loss, logits, labels, use_reentrant=False)
    assert isinstance(loss, Tensor)
    return loss
