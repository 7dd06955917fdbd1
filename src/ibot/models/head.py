"""The projection head; the teacher's is the online tokenizer (sections 3.1, 3.2; spec 4).

    x [R, D] -> MLP -> bottleneck, l2-normalised -> weight-normalised last layer -> logits [R, K]

The MLP serves class and patch tokens; the last layer is common to both ("shared") or one for each.
The parts are methods of their own because not every token goes through every part (spec 5.7). For
an ablation the patch tokens may leave the common MLP early, through layers of their own. Of a
teacher whose patches count by what they add to their view (`residual`), the last layer reads that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.config.schema import HeadConfig
from ibot.models.layers import init_linear

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm1d,
    "syncbn": nn.SyncBatchNorm,
    "ln": nn.LayerNorm,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Scored(NamedTuple):
    """Logits that were not computed: the losses do it for a few rows at a time.

    A tuple, so that what wraps a network finds the tensors in its output.
    """

    rows: Tensor
    """[..., d], projected tokens."""
    weight: Tensor
    """[K, d] of the last layer, which has no bias."""

    def logits(self) -> Tensor:
        """[..., K], float32 or wider."""
        with torch.autocast(self.rows.device.type, enabled=False):
            return F.linear(at_least_float32(self.rows), self.weight)


class Prototypes(nn.Module):
    """Linear layer without bias, W[k] = g[k] * v[k] / |v[k]|: rows have a length (spec 4.2)."""

    def __init__(self, in_dim: int, out_dim: int, train_length: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=train_length)
        self.weight_v = nn.Parameter(
            torch.empty(out_dim, in_dim).uniform_(-(in_dim**-0.5), in_dim**-0.5)
        )

    @property
    def weight(self) -> Tensor:
        """W [K, d]."""
        length = self.weight_v.norm(dim=1, keepdim=True)
        return self.weight_v * (self.weight_g / length)

    def forward(self, z: Tensor) -> Tensor:
        """Logits [R, K] of rows z [R, d]; with g = 1 and unit rows cosines with the prototypes."""
        return F.linear(z, self.weight)


class ProjectionHead(nn.Module):
    """MLP, normalised bottleneck and one or two last layers."""

    def __init__(
        self,
        in_dim: int,
        config: HeadConfig,
        shared: bool,
        init: Literal["published", "xavier"] = "published",
        residual: bool = False,
    ) -> None:
        """residual: words of patches are of their `residuals`; a student's head predicts those of
        its teacher without.
        """
        super().__init__()
        self.shared = shared
        self.residual = residual
        self.normalized = config.bottleneck_dim > 0
        self.sees_batch = config.norm in ("bn", "syncbn")
        out = config.bottleneck_dim or config.out_dim
        layers = _mlp_layers(in_dim, out, config)
        self.mlp = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
        init_linear(self.mlp, init)
        self.patch_mlp: nn.Sequential | None = None
        if 0 <= config.shared_layers < config.layers:
            self.common = config.shared_layers * (len(layers) - 1) // max(1, config.layers - 1)
            self.patch_mlp = nn.Sequential(*_mlp_layers(in_dim, out, config)[self.common :])
            init_linear(self.patch_mlp, init)
        # The last layers keep torch's uniform initialisation (quirk Q40).
        if self.normalized:
            train_length = not config.norm_last_layer
            self.last_layer = Prototypes(out, config.out_dim, train_length)
            own = None if shared else Prototypes(out, config.patch_out_dim, train_length)
            self.last_layer2 = own
        elif not shared:
            width = config.hidden_dim if config.layers > 1 else in_dim
            self.mlp2 = nn.Linear(width, config.patch_out_dim)

    @property
    def cls_layer(self) -> nn.Module:
        """The last layer of class tokens."""
        if self.normalized:
            return self.last_layer
        return self.mlp[-1] if isinstance(self.mlp, nn.Sequential) else self.mlp

    @property
    def patch_layer(self) -> nn.Module:
        """The last layer of patch tokens; the same module as `cls_layer` in a shared head."""
        if self.shared:
            return self.cls_layer
        return self.last_layer2 if self.normalized else self.mlp2  # pyright: ignore[reportReturnType]

    def project(self, tokens: Tensor) -> Tensor:
        """Rows [R, D] -> the l2-normalised bottleneck [R, d], float32 or wider."""
        if not self.normalized:
            hidden = self.mlp[:-1](tokens) if isinstance(self.mlp, nn.Sequential) else tokens
            return at_least_float32(hidden)
        return F.normalize(at_least_float32(self.mlp(tokens)), dim=-1)

    def project_both(self, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """`project` of class rows [R, D] and patch rows [M, D], together if both take one MLP."""
        if self.patch_mlp is None:
            z = self.project(torch.cat([cls, patches]))
            z_cls, z_patches = z.split([len(cls), len(patches)])
            return z_cls, z_patches
        return self.project(cls), self.project_patches(patches)

    def project_patches(self, patches: Tensor) -> Tensor:
        """`project` of patch rows [M, D] alone."""
        if self.patch_mlp is None:
            return self.project(patches)
        assert isinstance(self.mlp, nn.Sequential)
        own = self.patch_mlp(self.mlp[: self.common](patches))
        return F.normalize(at_least_float32(own), dim=-1)

    def rows_of_views(self, projected: Tensor) -> Tensor:
        """Projected patches [B, N, d] of B views -> rows [B, N, d] that the last layer reads."""
        return residuals(projected) if self.residual else projected

    def patch_rows(self, patches: Tensor) -> Tensor:
        """Patch tokens [B, N, D] of B whole views -> rows [B, N, d] that the last layer reads.

        Which word a patch has is told by these alone.
        """
        rows = self.project_patches(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return self.rows_of_views(rows)

    def logits(self, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Projected class rows [R, d] and patch rows [M, d] -> logits [R, K], [M, K'].

        Float32 or wider: they are divided by temperatures as low as 0.04 (quirk Q59).
        """
        with torch.autocast(cls.device.type, enabled=False):
            if self.shared:
                both = self.cls_layer(torch.cat([cls, patches]))
                return both[: len(cls)], both[len(cls) :]
            return self.cls_layer(cls), self.patch_layer(patches)

    def scored(self, cls: Tensor, patches: Tensor) -> tuple[Scored, Scored]:
        """What `logits` would compute, for heads that are `normalized`."""
        with torch.autocast(cls.device.type, enabled=False):
            weight = self.last_layer.weight
            own = weight if self.last_layer2 is None else self.last_layer2.weight
        return Scored(cls, weight), Scored(patches, own)


class UnitLength(nn.Module):
    """Rows [B, d] scaled to length 1, in float32 or wider."""

    def forward(self, x: Tensor) -> Tensor:
        """The same direction."""
        return F.normalize(at_least_float32(x), dim=-1)


def residuals(rows: Tensor) -> Tensor:
    """Rows [views, N, d] of patches less the mean of their view, of length 1 again."""
    return F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=-1)


def at_least_float32(x: Tensor) -> Tensor:
    """Float16 and bfloat16 become float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mlp_layers(in_dim: int, out_dim: int, config: HeadConfig) -> list[nn.Module]:
    """Linear, [norm], activation, ..., linear; `config.layers` linears in all."""
    layers: list[nn.Module] = []
    norm: nn.Module | None = None
    width = in_dim
    for _ in range(config.layers - 1):
        layers.append(nn.Linear(width, config.hidden_dim))
        width = config.hidden_dim
        if config.norm != "none":
            norm = norm if norm is not None and config.norm_shared else NORMS[config.norm](width)
            layers.append(norm)
        layers.append(ACTIVATIONS[config.act]())
    return [*layers, nn.Linear(width, out_dim)]
