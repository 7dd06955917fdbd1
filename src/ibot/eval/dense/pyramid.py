"""Four maps, each half as fine as the one before, out of the blocks of any backbone.

A network in stages has them (spec_evaluation 8.9.6); those of a ViT are all of one stride and are
enlarged, kept and pooled (8.9.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ibot.eval.dense.norm import BatchNorm, MapNorm
from ibot.models.contract import Backbone, MapShape


class Pyramid(nn.Module):
    """From the maps after `Backbone.pyramid_blocks` to those of rising strides.

    Of a ViT with patches of p pixels the strides are p/4, p/2, p and 2p, with learned enlargements;
    of a network in stages they are its own, each through a new layer norm.
    """

    def __init__(self, shapes: Sequence[MapShape]) -> None:
        """Build it for four maps of these shapes. Raises ValueError for other strides."""
        super().__init__()
        strides = [shape.stride for shape in shapes]
        self.channels = tuple(shape.channels for shape in shapes)
        if len(set(strides)) == 1 and len(strides) == 4 and strides[0] % 4 == 0:
            width, stride = shapes[0].channels, strides[0]
            self.strides = (stride // 4, stride // 2, stride, 2 * stride)
            self.steps = nn.ModuleList(
                [
                    nn.Sequential(_twice(width), BatchNorm(width), nn.GELU(), _twice(width)),
                    _twice(width),
                    nn.Identity(),
                    nn.MaxPool2d(2),
                ]
            )
        elif all(coarser == 2 * finer for finer, coarser in pairwise(strides)):
            self.strides = tuple(strides)
            self.steps = nn.ModuleList(MapNorm(channels) for channels in self.channels)
        else:
            raise ValueError(f"no pyramid of maps with strides {strides}")

    @classmethod
    def of(cls, backbone: Backbone) -> Pyramid:
        """The one for the maps of `backbone`."""
        return cls([backbone.map_shape(block) for block in backbone.pyramid_blocks])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B, C, h, w] after each block -> [B, C, h', w'], finest first."""
        return [step(one) for step, one in zip(self.steps, maps, strict=True)]


def _twice(width: int) -> nn.ConvTranspose2d:
    """Twice as many rows and columns."""
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
