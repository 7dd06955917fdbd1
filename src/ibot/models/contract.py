"""What the method and the evaluations may ask of a backbone.

A new backbone is one class in one file and one line in `ibot.models.backbone.build_backbone`, under
a value of `ModelConfig.kind`, built as `Network(config, image_size, drop_path, masked)`; `masked`:
with a mask token. What is not abstract here it gets as it is, or does better. Training gives it
images of two sizes, evaluations of any: a network of a fixed grid resamples. Sizes are read as
`x.shape[i]`, never `len(x)`: programs of `torch.export` keep them free.
Fine-tuning finds the layer of a parameter by its name: what belongs to the input is
`patch_embed.*`, `cls_token`, `pos_embed`, `masked_embed` or `register_tokens`; what belongs to a
block is `blocks.I.*`, or `layers.K.blocks.I.*` in stage K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ibot.config.reading import RGB
from ibot.models.layers import DropPath, Resampling, rising_rates
from ibot.types import TokenOutput


class MapShape(NamedTuple):
    """What is known of a map before the network runs."""

    channels: int
    stride: int
    """Pixels per cell."""


class Views(NamedTuple):
    """Views of one size on their way through a backbone, and what is read of them."""

    images: Tensor
    """[B, C, H, W]."""
    mask: Tensor | None
    """bool [B, N], True = hidden."""
    rows: Tensor
    """int64 [R] into their tokens [B * (1 + N), D], class token first."""

    @property
    def num_patches(self) -> int:
        """Rows beyond a class token of each view."""
        return len(self.rows) - len(self.images)


class Backbone(nn.Module, ABC):
    """A network from images to one class token and a grid of patch tokens.

    Images [B, C, H, W] of the `channels` are normalised by `statistics`. Blocks are counted over
    all stages.
    """

    family: str
    """What it is called among people: ViT, Swin."""
    has_class_token: bool = False
    """Whether a learned token runs through the blocks; otherwise `cls` is made from the patches."""
    class_heads: int = 0
    """Heads with which that token attends to the patches in the last block; 0: it does not."""
    masked_embed: nn.Parameter | None
    """The mask token of a student."""
    __call__: Callable[..., TokenOutput]

    def __init__(
        self,
        *,
        embed_dim: int,
        patch_size: int,
        depths: Sequence[int],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        channels: Sequence[str] = RGB,
    ) -> None:
        """Tell what is known of every backbone.

        Args:
            embed_dim: D, width of the output tokens.
            patch_size: pixels per output token: the cell of the mask grid.
            depths: blocks of each stage; without stages, one number.
            statistics: mean and deviation of each channel (`ibot.data.pixels.normalize`).
            channels: their names.
        """
        super().__init__()
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.depths, self.statistics = tuple(depths), statistics
        self.channels = tuple(channels)
        self.masked_embed = None

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @abstractmethod
    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch tokens of an image of that many pixels."""

    @abstractmethod
    def forward(
        self, images: Tensor, mask: Tensor | None = None, drop: Tensor | None = None
    ) -> TokenOutput:
        """All tokens; `mask` bool [B, N], True = hidden, None = nothing hidden.

        drop: [num_blocks, 2, B], what stochastic depth multiplies the branches of the blocks by
        (`factors_of_blocks`); None: each `DropPath` draws for itself.
        """

    @abstractmethod
    def last_layers(self, images: Tensor, num: int, norm: bool = True) -> list[TokenOutput]:
        """Outputs of the last `num` blocks, earliest first, through the final norm where it fits.

        Raises ValueError for more blocks than there are.
        """

    @abstractmethod
    def blocks_for_sharding(self) -> list[nn.Module]:
        """All blocks in order, whatever they take: units of stochastic depth, later of sharding.

        Each has a `drop_path` (`ibot.models.layers.DropPath`) behind its branches.
        """

    def forward_rows(
        self, images: Tensor, mask: Tensor | None, rows: Tensor, drop: Tensor | None = None
    ) -> Tensor:
        """Rows `rows` int64 [R] of the tokens [B * (1 + N), D], class token first: [R, D].

        A network that can do so leaves out what only other rows need. drop: as in `forward`.
        """
        output = self(images, mask, drop)
        return torch.cat([output.cls[:, None], output.patches], dim=1).flatten(0, 1)[rows]

    def forward_views(self, views: Sequence[Views], drop: Tensor | None = None) -> Tensor:
        """`forward_rows` of views of several sizes, one after the other: [R of all, D].

        A network that can do so takes them in one pass. drop: as in `forward`, of all views.
        """
        drops = [None] * len(views)
        if drop is not None:
            drops = drop.split([each.images.shape[0] for each in views], dim=-1)
        rows = [self.forward_rows(*each, own) for each, own in zip(views, drops, strict=True)]
        return torch.cat(rows)

    def tokens_and_attention(self, images: Tensor, norm: bool = True) -> tuple[TokenOutput, Tensor]:
        """Output tokens, and the attention of the class token to the patches in the last block.

        norm: whether the tokens go through the final norm. The attention is [B, heads, N]; its
        rest goes to the other tokens. Raises ValueError where `class_heads` is 0.
        """
        raise ValueError(f"a {self.family} has no class token that attends to patches")

    def attention_maps(self, images: Tensor, block: int = -1) -> Tensor:
        """Attention probabilities of one block among all its tokens, for pictures.

        Of a ViT [B, heads, 1 + N, 1 + N]; of a Swin [B * windows, heads, q * q, q * q].
        Raises ValueError for a network without attention.
        """
        raise ValueError(f"a {self.family} has no attention to show")

    def received_attention(self, images: Tensor) -> Tensor:
        """What each patch gets of the attention of the others in the last block: [B, heads, h, w].

        For pictures of networks without a class token. Every patch gives 1 in all, so that the mean
        is 1. Raises ValueError for a network that cannot say.
        """
        raise ValueError(f"a {self.family} does not say which patches are attended to")

    @property
    def pyramid_blocks(self) -> tuple[int, ...]:
        """Blocks, counted from 1, whose maps make a pyramid: the last one of each stage.

        Without stages the published ones: after each third, and half way. 12 blocks: 4, 6, 8, 12.
        """
        if len(self.depths) > 1:
            return tuple(accumulate(self.depths))
        depth = self.num_blocks
        return tuple(max(1, part) for part in (depth // 3, depth // 2, 2 * depth // 3, depth))

    def map_shape(self, block: int) -> MapShape:
        """Of the map after a block, counted from 1: each stage doubles channels and stride.

        A network whose stages do otherwise says so itself.
        """
        stages = list(accumulate(self.depths))
        later = sum(block <= end for end in stages) - 1
        return MapShape(self.embed_dim >> later, self.patch_size >> later)

    def maps_after(self, images: Tensor, blocks: Sequence[int], norm: bool = False) -> list[Tensor]:
        """Maps [B, C, h, w] after the chosen `blocks`, counted from 1; see `map_shape`.

        norm: whether the final norm is applied where it fits. Raises ValueError for other blocks.
        """
        if not blocks or min(blocks) < 1 or max(blocks) > self.num_blocks:
            raise ValueError(f"asked for the maps after {blocks} of {self.num_blocks} blocks")
        layers = self.last_layers(images, self.num_blocks - min(blocks) + 1, norm)
        chosen = [layers[block - min(blocks)] for block in blocks]
        return [one.patches.transpose(1, 2).unflatten(2, one.grid) for one in chosen]

    def tokens_per_image(self, height: int, width: int) -> int:
        """Tokens of an image in the largest stage, counted as tokens of width D.

        What an image takes of memory grows with it, so that batches can be chosen.
        """
        rows, columns = self.token_grid(height, width)
        channels, stride = self.map_shape(1)
        return rows * columns * (self.patch_size // stride) ** 2 * channels // self.embed_dim

    @property
    def drop_rates(self) -> tuple[float, ...]:
        """Stochastic depth of each block; empty where no block has any."""
        paths = [block.get_submodule("drop_path") for block in self.blocks_for_sharding()]
        rates = tuple(path.rate for path in paths if isinstance(path, DropPath))
        return rates if any(rates) else ()

    def factors_of_blocks(self, drop: Tensor | None) -> list[Tensor | None]:
        """Of `drop` [num_blocks, 2, B] the factors [2, B] of each block; None: it drops nothing."""
        if drop is None:
            return [None] * self.num_blocks
        pairs = zip(drop.unbind(), self.drop_rates, strict=True)
        return [own if rate else None for own, rate in pairs]

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth from 0 in the first block to `rate` in the last, as if built with it."""
        blocks = self.blocks_for_sharding()
        for block, own in zip(blocks, rising_rates(rate, len(blocks)), strict=True):
            block.drop_path = DropPath(own).train(block.training)

    def freeze_mask_token(self) -> None:
        """For training without masks, where the mask token would never get a gradient."""
        if self.masked_embed is not None:
            self.masked_embed.requires_grad_(False)

    def resize_positions(self, size: tuple[int, int], resampling: Resampling | None = None) -> None:
        """Resample the position table, if there is one, once for images of `size`.

        resampling: how; None: as the network does by itself for images of other sizes.
        """
