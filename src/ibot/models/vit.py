"""Vision transformer with a mask token (paper section 3.1, spec 3.1).

What is special here, beside a plain pre-norm ViT:
- masked patches are replaced after the patch embedding and before the positions are added, so they
  keep their place;
- the position table is resampled to any crop, with the published 0.1 in the sampling points;
- `forward_rows` computes the last block only for the tokens that somebody reads;
- optional: layer scale, mean pooling, register tokens.
Parameter names are those of the published code (and of timm, but for `masked_embed`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ibot.config.schema import ModelConfig
from ibot.kernels.choice import chosen
from ibot.models.contract import Backbone, Views
from ibot.models.layers import (
    Block,
    PatchEmbed,
    Resampling,
    init_linear,
    resample_positions,
    rising_rates,
)
from ibot.models.packed import pack
from ibot.types import TokenOutput


class VisionTransformer(Backbone):
    """The ViT backbone."""

    family, has_class_token = "ViT", True

    def __init__(
        self,
        config: ModelConfig,
        image_size: tuple[int, int],
        drop_path: float = 0.0,
        masked: bool = False,
    ) -> None:
        width, patch = config.width, config.patch
        super().__init__(
            embed_dim=width,
            patch_size=patch,
            depths=(config.depth,),
            statistics=config.statistics,
            channels=config.channels,
        )
        self.class_heads = config.heads
        self.pos_interp: Resampling = config.pos_interp
        self.table_grid = (image_size[0] // patch, image_size[1] // patch)
        num_patches = self.table_grid[0] * self.table_grid[1]
        if num_patches < 1:
            raise ValueError(f"an image of {image_size} pixels holds no patch of {patch}")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, width))
        self.masked_embed = nn.Parameter(torch.zeros(1, width)) if masked else None
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, config.registers, width)) if config.registers else None
        )
        self.patch_embed = PatchEmbed(patch, width, len(config.channels))
        hidden = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                hidden,
                rate,
                layer_scale=config.layer_scale,
                norm_eps=config.norm_eps,
                act=config.act,
            )
            for rate in rising_rates(drop_path, config.depth)
        )
        norm, pooled = nn.LayerNorm(width, eps=config.norm_eps), config.mean_pooling
        self.norm = nn.Identity() if pooled else norm
        self.fc_norm = norm if pooled else None
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=0.02)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=0.02)
        init_linear(self, config.init)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches; a remainder is cut off."""
        return height // self.patch_size, width // self.patch_size

    def forward(
        self, images: Tensor, mask: Tensor | None = None, drop: Tensor | None = None
    ) -> TokenOutput:
        """All tokens; patches where `mask` bool [B, N] is True are hidden behind the mask token."""
        x, grid = self._embed(images, mask)
        for block, factors in zip(self.blocks, self.factors_of_blocks(drop), strict=True):
            x = block(x, drop=factors)
        return self._output(x, grid)

    def forward_rows(
        self, images: Tensor, mask: Tensor | None, rows: Tensor, drop: Tensor | None = None
    ) -> Tensor:
        """As in the contract; the last block is computed for the chosen rows alone."""
        if self.fc_norm is not None:  # the class output is the mean of all patches: nothing to save
            return super().forward_rows(images, mask, rows, drop)
        x, grid = self._embed(images, mask)
        *earlier, last = self.factors_of_blocks(drop)
        for block, factors in zip(self.blocks[:-1], earlier, strict=True):
            x = block(x, drop=factors)
        rows = _rows_of_tokens(rows, x.shape[1], grid)
        return self.norm(self.blocks[-1](x, rows=rows, drop=last))

    def forward_views(self, views: Sequence[Views], drop: Tensor | None = None) -> Tensor:
        """As in the contract; views of all sizes in one pass where that pays."""
        if not self._packs(views, drop):
            return super().forward_views(views, drop)
        parts = [self._embed(each.images, each.mask) for each in views]
        x, packing = pack([tokens for tokens, _ in parts])
        rows, first = [], 0
        for each, (tokens, grid) in zip(views, parts, strict=True):
            rows.append(first + _rows_of_tokens(each.rows, tokens.shape[1], grid))
            first += tokens.shape[0] * tokens.shape[1]
        *earlier, last = self.factors_of_blocks(drop)
        for block, factors in zip(self.blocks[:-1], earlier, strict=True):
            x = block(x, drop=factors, packing=packing)
        return self.norm(self.blocks[-1](x, rows=torch.cat(rows), drop=last, packing=packing))

    def _packs(self, views: Sequence[Views], drop: Tensor | None) -> bool:
        """Whether views of several sizes go through together."""
        # A block that draws for itself would draw for other numbers of views.
        drawn = drop is not None or not (self.training and self.drop_rates)
        if self.fc_norm is not None or not drawn or len(views) == 1:
            return False
        return views[0].images.is_cuda and chosen("packed views", "one pass")

    def last_layers(self, images: Tensor, num: int, norm: bool = True) -> list[TokenOutput]:
        """Outputs of the last `num` blocks, each through the final norm unless told otherwise."""
        if not 1 <= num <= self.num_blocks:
            raise ValueError(f"asked for the last {num} of {self.num_blocks} blocks")
        x, grid = self._embed(images, None)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= self.num_blocks - num:
                outputs.append(self._output(x, grid) if norm else self._split(x, grid))
        return outputs

    def tokens_and_attention(self, images: Tensor, norm: bool = True) -> tuple[TokenOutput, Tensor]:
        """One pass; the attention is that of `attention_maps`, its row of the class token."""
        x, grid = self._embed(images, None)
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        attention = last.attn.probabilities(last.norm1(x), 1)[:, :, 0, 1 : 1 + grid[0] * grid[1]]
        x = last(x)
        return self._output(x, grid) if norm else self._split(x, grid), attention

    def attention_maps(self, images: Tensor, block: int = -1) -> Tensor:
        """Of one block: [B, heads, 1 + N, 1 + N]; register tokens, if any, come last."""
        x, _ = self._embed(images, None)
        stop = range(self.num_blocks)[block]
        for earlier in self.blocks[:stop]:
            x = earlier(x)
        chosen = self.blocks[stop]
        assert isinstance(chosen, Block)
        return chosen.attn.probabilities(chosen.norm1(x))

    def blocks_for_sharding(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    @torch.no_grad()
    def resize_positions(self, size: tuple[int, int], resampling: Resampling | None = None) -> None:
        """Put the table of another grid in the place of this one."""
        grid = self.token_grid(*size)
        table = self.positions(grid, square=size[0] == size[1], resampling=resampling)
        if table is not self.pos_embed:
            self.pos_embed, self.table_grid = nn.Parameter(table), grid

    def _embed(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        height, width = images.shape[-2:]
        grid = self.token_grid(height, width)
        x = self.patch_embed(images)
        if mask is not None:
            if self.masked_embed is None:
                raise ValueError("this backbone was built without a mask token")
            x = torch.where(mask[..., None], self.masked_embed.to(x.dtype), x)
        positions = self.positions(grid, square=height == width)
        cls = self.cls_token + positions[:, :1]
        parts = [cls.expand(x.shape[0], -1, -1), x + positions[:, 1:]]
        if self.register_tokens is not None:
            parts.append(self.register_tokens.expand(x.shape[0], -1, -1))
        return torch.cat(parts, dim=1), grid

    def positions(
        self, grid: tuple[int, int], square: bool, resampling: Resampling | None = None
    ) -> Tensor:
        """Position rows [1, 1 + h * w, D] of a grid [h, w] of patches, class token first.

        square: whether the crop is. Published rule: as it is, a square table serves only square
        crops of its own number of patches. resampling: None is that of the settings.
        """
        table_square = self.table_grid[0] == self.table_grid[1]
        if grid == self.table_grid and (square or not table_square):
            return self.pos_embed
        mode = resampling or self.pos_interp
        patches = resample_positions(self.pos_embed[:, 1:], self.table_grid, grid, mode)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def _output(self, x: Tensor, grid: tuple[int, int]) -> TokenOutput:
        tokens = self._split(self.norm(x), grid)
        if self.fc_norm is None:
            return tokens
        return TokenOutput(self.fc_norm(tokens.patches.mean(dim=1)), tokens.patches, grid)

    def _split(self, x: Tensor, grid: tuple[int, int]) -> TokenOutput:
        return TokenOutput(x[:, 0], x[:, 1 : 1 + grid[0] * grid[1]], grid)


def _rows_of_tokens(rows: Tensor, tokens: int, grid: tuple[int, int]) -> Tensor:
    """Rows of outputs as rows of `tokens` an image: registers stand behind the patches."""
    outputs = 1 + grid[0] * grid[1]
    return rows + (rows // outputs) * (tokens - outputs)
