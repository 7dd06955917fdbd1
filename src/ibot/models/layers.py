"""Parts of the vision transformers: embedding, positions, attention, MLP, stochastic depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.kernels.choice import chosen
from ibot.models import fused
from ibot.models.packed import Packing, attend_packed
from ibot.models.skipped import added, skips

Resampling = Literal["published", "exact", "antialias"]
"""How a position table is brought to another grid; see `resample_positions`."""


def init_linear(module: nn.Module, scheme: Literal["published", "xavier"]) -> None:
    """Initialise every `nn.Linear` in `module`: normal, std 0.02 (spec 3), or Xavier; bias 0.

    The published "truncated" normal is cut at +-2 absolute, which is never reached (quirk Q34).
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            if scheme == "published":
                nn.init.normal_(part.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each; a remainder of H, W is cut off."""

    def __init__(self, patch: int, width: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D], row by row."""
        patch = self.proj.kernel_size[0]
        whole = min(images.shape[-2:]) >= patch  # else the convolution says what is wrong
        if images.device.type == "cpu" and whole and chosen("patch embedding", "one product"):
            patches = cut_patches(images, patch)
            return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
        return self.proj(images).flatten(2).transpose(1, 2)


def cut_patches(images: Tensor, patch: int) -> Tensor:
    """Pixels of all patches of images [B, C, H, W]: [B, N, C * patch * patch], by channels.

    A remainder of H, W is left out.
    """
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    cut = images[..., : rows * patch, : columns * patch]
    cut = cut.unflatten(-2, (rows, patch)).unflatten(-1, (columns, patch))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def resample_positions(
    table: Tensor, table_grid: tuple[int, int], grid: tuple[int, int], mode: Resampling
) -> Tensor:
    """Resample position rows [1, Mh*Mw, D] bicubically to [1, h*w, D] (spec 3.1.3).

    The published code adds 0.1 to the target size, which shifts every sampling point; `exact` does
    not, and `antialias` also smooths as Pillow does.
    """
    width = table.shape[-1]
    maps = table.reshape(1, *table_grid, width).permute(0, 3, 1, 2)
    if mode == "published":
        scale = [(size + 0.1) / of for size, of in zip(grid, table_grid, strict=True)]
        maps = F.interpolate(maps, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    else:
        maps = F.interpolate(maps, size=grid, mode="bicubic", antialias=mode == "antialias")
    if tuple(maps.shape[-2:]) != tuple(grid):
        raise ValueError(f"position table resampled to {tuple(maps.shape[-2:])}, wanted {grid}")
    return maps.permute(0, 2, 3, 1).reshape(1, -1, width)


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples, scale the others (spec 3.1.4).

    Pre-training hands in the factors of a step (`ibot.data.depth`). Without them, as in fine-tuning
    and in runs that began before, torch's generator draws for every image of a step, whatever parts
    the step is cut into: part number `part` of `parts` holds the images part, part + parts, ... and
    the generator must stand at the same place for each of them. See `set_part`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part, self.parts = 0, 1

    def forward(
        self,
        branch: Tensor,
        num_samples: int,
        sample: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Apply to `branch` [B, ..., D], or to rows [R, D] of the images `sample` int64 [R].

        factor: [B], 0 for the images whose branch is dropped; whoever gives it has drawn.
        """
        if factor is None:
            if not self.training or self.rate == 0.0:
                return branch
            keep, every = 1 - self.rate, num_samples * self.parts
            drawn = torch.rand(every, device=branch.device)[self.part :: self.parts]
            factor = torch.floor(keep + drawn).to(branch.dtype) / keep
        factor = factor.to(branch.dtype)
        factor = factor if sample is None else factor[sample]
        return branch * factor.view(-1, *[1] * (branch.dim() - 1))


def rising_rates(rate: float, num_blocks: int) -> list[float]:
    """Stochastic depth of each block: from 0 in the first to `rate` in the last (spec 3.1.4)."""
    return [rate * i / max(1, num_blocks - 1) for i in range(num_blocks)]


def set_part(network: nn.Module, part: int, parts: int) -> None:
    """Say which part of the step comes next, or which one a process has, where `DropPath` draws."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.part, module.parts = part, parts


def attention_softmax(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention probabilities [B, heads, T, T] of queries and keys [B, heads, T, d].

    The plain path. bias: added to the scores.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return torch.softmax(
        scores, dim=-1, dtype=torch.float32 if scores.dtype is torch.bfloat16 else None
    )


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Values [B, heads, T, d] mixed by attention, in one kernel where that pays."""
    slow_kernel = q.dtype is torch.bfloat16 and q.device.type == "cpu"
    # The fused kernel's bfloat16 backward is 7 to 13 times slower here than plain products
    # (docs/log.md); with a bias its layout cannot be traced by torch.export.
    if slow_kernel or (bias is not None and torch.compiler.is_exporting()):
        return attention_softmax(q, k, bias).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _quick_gelu(x: Tensor) -> Tensor:
    """An early approximation of GELU, that of CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}
"""Values of `ModelConfig.act`."""


class Attention(nn.Module):
    """Multi-head self-attention; `attend` stops before the output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, T, D] -> queries, keys, values [B, heads, T, D / heads]."""
        return self._heads_of(self.qkv(x))

    def attend(self, x: Tensor) -> Tensor:
        """Mix values by attention: [B, T, D] -> [B, T, D]."""
        return self.mix(self.qkv(x))

    def mix(self, qkv: Tensor) -> Tensor:
        """`attend` of queries, keys and values side by side [B, T, 3D]."""
        return fused_attention(*self._heads_of(qkv)).transpose(1, 2).flatten(2)

    def _heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, width = qkv.shape
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // (3 * self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def probabilities(self, x: Tensor, queries: int | None = None) -> Tensor:
        """Attention of every token to every token [B, heads, T, T], by the plain path.

        queries: only of so many tokens, the first ones; of large images all pairs are gigabytes.
        """
        q, k, _ = self.split_heads(x)
        return attention_softmax(q[:, :, :queries], k)


class Mlp(nn.Module):
    """Linear, an activation of `ACTIVATIONS`, linear."""

    def __init__(self, width: int, hidden: int, act: str = "gelu") -> None:
        super().__init__()
        self.act = ACTIVATIONS[act]
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Each token by itself: [..., D] -> [..., D]."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with optional layer scale and stochastic depth."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_hidden: int,
        drop_path: float,
        *,
        layer_scale: float,
        norm_eps: float,
        act: str,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_hidden, act)
        self.drop_path = DropPath(drop_path)
        self.gamma_1 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.gamma_2 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None

    def forward(
        self,
        x: Tensor,
        rows: Tensor | None = None,
        drop: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Transform tokens [B, T, D]; with `rows` int64 [R] into B*T only those: [R, D].

        Keys and values need all tokens, what follows only the rows that are read (spec 5.7, I5).
        drop: [2, B], factors of the branches of attention and MLP; see `DropPath`. packing: of x
        [B*T, D], the rows of views of several sizes; the result are rows then as well.
        """
        if packing is None and fused.takes(self, x):
            return fused.forward(self, x, rows, drop)
        if rows is None and packing is None and drop is not None and skips(x, drop):
            x = added(x, self._attention, drop[0])
            return added(x, self._mlp, drop[1])
        if packing is None:
            images, tokens = x.shape[:2]
            mixed, sample = self.attn.attend(self.norm1(x)), None
            if rows is not None:
                x, mixed, sample = x.flatten(0, 1)[rows], mixed.flatten(0, 1)[rows], rows // tokens
        else:
            images, sample = packing.num_views, packing.view
            mixed = attend_packed(self.attn, self.norm1(x), packing)
            if rows is not None:
                x, mixed, sample = x[rows], mixed[rows], sample[rows]
        first, second = (None, None) if drop is None else drop.unbind()
        branch = _scaled(self.attn.proj(mixed), self.gamma_1)
        x = x + self.drop_path(branch, images, sample, first)
        return x + self.drop_path(self._mlp(x), images, sample, second)

    def _attention(self, x: Tensor) -> Tensor:
        return _scaled(self.attn.proj(self.attn.attend(self.norm1(x))), self.gamma_1)

    def _mlp(self, x: Tensor) -> Tensor:
        return _scaled(self.mlp(self.norm2(x)), self.gamma_2)


def _scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
    return branch if gamma is None else branch * gamma
