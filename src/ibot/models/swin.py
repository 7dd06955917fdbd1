"""Swin Transformer with a mask token: attention in shifted windows (paper section 3.1, spec 3.2).

What the method needs beside a plain Swin:
- the mask lives on the output grid (cells of 32 pixels in four stages) and hides every embedded
  patch below a cell;
- there is no class parameter: the class token is the mean of the normalised output tokens;
- crops of any size: maps are padded to whole windows, and padding is attended to like any zero;
- window sides and shifts follow from the image size at construction, not from the crop.
Parameter names are those of the published code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.config.schema import ModelConfig
from ibot.models.contract import Backbone
from ibot.models.layers import (
    DropPath,
    Mlp,
    attention_softmax,
    fused_attention,
    init_linear,
    rising_rates,
)
from ibot.models.skipped import added, skips
from ibot.models.windows import relative_index, shift_penalty
from ibot.types import TokenOutput


class SwinTransformer(Backbone):
    """The Swin backbone."""

    family = "Swin"

    def __init__(
        self,
        config: ModelConfig,
        image_size: tuple[int, int],
        drop_path: float = 0.0,
        masked: bool = False,
    ) -> None:
        stages = len(config.depths)
        super().__init__(
            embed_dim=config.width * 2 ** (stages - 1),
            patch_size=config.stride,
            depths=config.depths,
            statistics=config.statistics,
            channels=config.channels,
        )
        self.embed_patch = config.patch
        self.masked_embed = nn.Parameter(torch.zeros(1, config.width)) if masked else None
        self.patch_embed = MapEmbed(
            config.patch, config.width, config.norm_eps, len(config.channels)
        )
        rates = rising_rates(drop_path, self.num_blocks)
        self.layers = nn.ModuleList()
        for k, (depth, heads) in enumerate(zip(config.depths, config.stage_heads, strict=True)):
            side = min(image_size) // config.patch // 2**k
            before = sum(config.depths[:k])
            stage = Stage(
                config.width * 2**k,
                heads,
                min(config.window, side),
                shifted=side > config.window,
                mlp_ratio=config.mlp_ratio,
                drop_paths=rates[before : before + depth],
                merge=k < stages - 1,
                norm_eps=config.norm_eps,
                act=config.act,
            )
            self.layers.append(stage)
        self.norm = nn.LayerNorm(self.embed_dim, eps=config.norm_eps)
        init_linear(self, config.init)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of output tokens; an odd map is padded before each merging."""
        grid = height // self.embed_patch, width // self.embed_patch
        for _ in range(len(self.layers) - 1):
            grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
        return grid

    def forward(
        self, images: Tensor, mask: Tensor | None = None, drop: Tensor | None = None
    ) -> TokenOutput:
        """All tokens; `mask` bool [B, N] lies on the output grid.

        With a mask, H and W must be multiples of the stride (ValueError).
        """
        x, factors = self._embed(images, mask), iter(self.factors_of_blocks(drop))
        for stage in self.stages:
            x = stage(x, [next(factors) for _ in stage.blocks])
        return _tokens(self.norm(x))

    @property
    def stages(self) -> list[Stage]:
        """The stages, typed."""
        return [stage for stage in self.layers if isinstance(stage, Stage)]

    def last_layers(self, images: Tensor, num: int, norm: bool = True) -> list[TokenOutput]:
        """Outputs of the last `num` blocks, before any merging; widths differ between stages.

        The final norm fits the last stage alone and is applied there unless `norm` is False.
        """
        if not 1 <= num <= self.num_blocks:
            raise ValueError(f"asked for the last {num} of {self.num_blocks} blocks")
        x, outputs = self._embed(images, None), []
        for stage in self.stages:
            for block in stage.blocks:
                x = block(x)
                outputs.append(_tokens(self.norm(x) if norm and stage is self.stages[-1] else x))
            x = stage.merge(x)
        return outputs[-num:]

    def attention_maps(self, images: Tensor, block: int = -1) -> Tensor:
        """Inside the windows of one block: [B * windows, heads, q * q, q * q]."""
        chosen, x = self._before(images, block)
        return chosen.window_probabilities(x)

    def received_attention(self, images: Tensor) -> Tensor:
        """As in the contract: from the patches of the same window, windows put together again."""
        last, x = self._before(images, -1)
        return last.received(x)

    def _before(self, images: Tensor, block: int) -> tuple[WindowBlock, Tensor]:
        """A block, and the map [B, h, w, C] that goes into it."""
        x, chosen = self._embed(images, None), range(self.num_blocks)[block]
        for stage in self.stages:
            for candidate in stage.blocks:
                assert isinstance(candidate, WindowBlock)
                if chosen == 0:
                    return candidate, x
                x, chosen = candidate(x), chosen - 1
            x = stage.merge(x)
        raise AssertionError("unreachable: the range above bounds the block")

    def blocks_for_sharding(self) -> list[nn.Module]:
        """The blocks of all stages."""
        return [block for stage in self.stages for block in stage.blocks]

    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Embedded patches as a map [B, H / 4, W / 4, C], hidden where the enlarged mask is set."""
        x = self.patch_embed(images)
        if mask is None:
            return x
        if self.masked_embed is None:
            raise ValueError("this backbone was built without a mask token")
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"masked images need sides that are multiples of {self.patch_size}, not "
                f"{height}x{width}"
            )
        cell = self.patch_size // self.embed_patch
        hidden = mask.unflatten(1, (height // self.patch_size, width // self.patch_size))
        hidden = hidden.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        return torch.where(hidden[..., None], self.masked_embed.to(x.dtype), x)


class MapEmbed(nn.Module):
    """Cut an image into patches, project and normalise each."""

    def __init__(self, patch: int, width: int, norm_eps: float, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, H / patch, W / patch, C]; a remainder of H, W is cut off."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one resolution, then patch merging unless it is the last stage."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        *,
        shifted: bool,
        mlp_ratio: float,
        drop_paths: list[float],
        merge: bool,
        norm_eps: float,
        act: str,
    ) -> None:
        super().__init__()
        shift = window // 2 if shifted else 0
        self.blocks = nn.ModuleList(
            WindowBlock(
                width,
                heads,
                window,
                shift if i % 2 else 0,
                mlp_hidden=int(width * mlp_ratio),
                drop_path=rate,
                norm_eps=norm_eps,
                act=act,
            )
            for i, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(width, norm_eps) if merge else None

    def forward(self, x: Tensor, drops: Sequence[Tensor | None]) -> Tensor:
        """[B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), 2C], or the same in the last stage.

        drops: of each block, as it takes them.
        """
        for block, drop in zip(self.blocks, drops, strict=True):
            x = block(x, drop=drop)
        return self.merge(x)

    def merge(self, x: Tensor) -> Tensor:
        """What follows the blocks."""
        return x if self.downsample is None else self.downsample(x)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int, norm_eps: float) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), 2C]; zeros make an odd side even."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class WindowAttention(nn.Module):
    """Self-attention inside windows of side q with a learned bias per head and relative place."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * side - 1) ** 2, heads).normal_(std=0.02)
        )
        self.register_buffer("relative_position_index", relative_index(side))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, penalty: Tensor | None) -> Tensor:
        """Windows [B, n, q * q, C] -> the same; `penalty` [n, q * q, q * q] is added to the scores.

        Windows and heads are folded into one axis, so that one copy of the bias serves all images.
        """
        q, k, v = self._heads_of(windows)
        mixed = fused_attention(q, k, v, self._bias(windows.shape[1], penalty, q.dtype))
        mixed = mixed.unflatten(1, (windows.shape[1], self.heads)).transpose(2, 3).flatten(3)
        return self.proj(mixed)

    def probabilities(self, windows: Tensor, penalty: Tensor | None) -> Tensor:
        """Attention inside each window [B * n, heads, q * q, q * q], by the plain path."""
        q, k, _ = self._heads_of(windows)
        weights = attention_softmax(q, k, self._bias(windows.shape[1], penalty, q.dtype))
        return weights.unflatten(1, (windows.shape[1], self.heads)).flatten(0, 1)

    def _heads_of(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [B, n * heads, q * q, C / heads]."""
        qkv = self.qkv(windows).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        return q, k, v

    def _bias(self, num_windows: int, penalty: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Bias and penalty [1, n * heads, q * q, q * q]."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias.expand(num_windows, -1, -1, -1) if penalty is None else bias + penalty[:, None]
        return bias.flatten(0, 1)[None].to(dtype)


class WindowBlock(nn.Module):
    """Pre-norm block: attention in windows, shifted in every second block, then an MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        side: int,
        shift: int,
        *,
        mlp_hidden: int,
        drop_path: float,
        norm_eps: float,
        act: str,
    ) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = WindowAttention(width, heads, side)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_hidden, act)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, drop: Tensor | None = None) -> Tensor:
        """Transform a map [B, h, w, C].

        drop: [2, B], factors of the branches of attention and MLP; see `DropPath`.
        """
        if drop is not None and skips(x, drop):
            return added(added(x, self._attention, drop[0]), self._mlp, drop[1])
        batch = x.shape[0]
        first, second = (None, None) if drop is None else drop.unbind()
        x = x + self.drop_path(self._attention(x), batch, None, first)
        return x + self.drop_path(self._mlp(x), batch, None, second)

    def _attention(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        windows, penalty = self._windows(x)
        return self._together(self.attn(windows, penalty), height, width)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm2(x))

    def _together(self, windows: Tensor, height: int, width: int) -> Tensor:
        """Windows [B, n, q * q, C] as the map [B, h, w, C] that they were cut from."""
        rows, columns = _padded(height, self.side), _padded(width, self.side)
        whole = windows.unflatten(1, (rows // self.side, columns // self.side))
        whole = whole.unflatten(3, (self.side, self.side))
        whole = whole.transpose(2, 3).reshape(windows.shape[0], rows, columns, -1)
        if self.shift:
            whole = whole.roll((self.shift, self.shift), (1, 2))
        return whole[:, :height, :width]

    def window_probabilities(self, x: Tensor) -> Tensor:
        """Attention of this block on its input map; see `SwinTransformer.attention_maps`."""
        return self.attn.probabilities(*self._windows(x))

    def received(self, x: Tensor) -> Tensor:
        """Attention that each patch gets from all patches, [B, heads, h, w]: 1 on average.

        Of patches and for patches alone: what padding takes is given back to the others, or a map
        would be dark at borders that are no multiple of the window.
        """
        height, width = x.shape[1:3]
        given = self.window_probabilities(x).unflatten(0, (x.shape[0], -1))  # [B, n, heads, q, k]
        # Which tokens are patches: ones where the map is, padded and cut like the map itself.
        real = self._cut(torch.ones_like(x[:, :, :, :1]))[0][:, :, None]  # [B, n, 1, q, 1]
        among = given * real.transpose(3, 4)
        got = (among / among.sum(4, keepdim=True) * real).sum(3)  # [B, n, heads, k]
        return self._together(got.transpose(2, 3), height, width).permute(0, 3, 1, 2)

    def _windows(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Windows [B, n, q * q, C] of the normalised, padded, shifted map, and their penalty."""
        # Zeros after the norm: a padded token has the biases as its key and value (spec 3.2.3).
        return self._cut(self.norm1(x))

    def _cut(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        rows, columns = _padded(x.shape[1], self.side), _padded(x.shape[2], self.side)
        x = F.pad(x, (0, 0, 0, columns - x.shape[2], 0, rows - x.shape[1]))
        penalty = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            # A tracer's stand-in for the tensor must not stay in the cache.
            make = shift_penalty.__wrapped__ if torch.compiler.is_compiling() else shift_penalty
            penalty = make(rows, columns, self.side, self.shift, x.device)
        x = x.unflatten(1, (-1, self.side)).unflatten(3, (-1, self.side)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2), penalty


def _padded(length: int, side: int) -> int:
    return -(-length // side) * side


def _tokens(x: Tensor) -> TokenOutput:
    """A map [B, h, w, D] as tokens, with their mean as class token."""
    patches = x.flatten(1, 2)
    return TokenOutput(patches.mean(dim=1), patches, (x.shape[1], x.shape[2]))
