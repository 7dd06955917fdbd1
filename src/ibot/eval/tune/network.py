"""A backbone with a classifier on its class token (spec_evaluation 8.4, 8.5)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ibot.errors import WeightsError
from ibot.eval.tune.settings import FinetuneSettings
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead, Prototypes, UnitLength
from ibot.rng import Purpose, torch_seed


class Classifier(nn.Module):
    """Backbone -> class token -> kept layers of the projection head, if any -> linear layer."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        settings: FinetuneSettings,
        *,
        head: ProjectionHead | None = None,
        seed: int = 0,
    ) -> None:
        """Put a new classifier on `backbone`, which gets the settings' stochastic depth.

        Args:
            backbone: pre-trained; trained in place.
            num_classes: C.
            settings: `head_layers`, `init_scale` and `drop_path` are read.
            head: the pre-trained projection head, for `head_layers` above 0.
            seed: of the new layer's weights: normal with std 0.02, bias 0, times `init_scale`.

        Raises:
            WeightsError: the head lacks the layers asked for.
        """
        super().__init__()
        self.backbone = backbone
        self.projection = projection_layers(head, settings.head_layers)
        width = projected_width(self.projection, backbone.embed_dim)
        self.head = nn.Linear(width, num_classes)
        generator = torch.Generator().manual_seed(torch_seed(seed, 0, 0, Purpose.INIT))
        with torch.no_grad():
            # The published "truncated" normal is cut at +-2, which is never reached.
            self.head.weight.normal_(std=0.02, generator=generator).mul_(settings.init_scale)
            self.head.bias.zero_()
        backbone.set_drop_path(settings.drop_path)
        backbone.freeze_mask_token()

    @property
    def num_classes(self) -> int:
        """C."""
        return self.head.out_features

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of normalised images [B, 3, H, W].

        The last block is computed for the class tokens only.
        """
        rows, columns = self.backbone.token_grid(images.shape[-2], images.shape[-1])
        index = torch.arange(len(images), device=images.device) * (1 + rows * columns)
        return self.head(self.projection(self.backbone.forward_rows(images, None, index)))


def projection_layers(head: ProjectionHead | None, count: int) -> nn.Sequential:
    """A copy of the first `count` linear layers of a projection head, to be trained
    (`finetune_head_layer` of 8.5).

    Each brings the norm and activation behind it; the last one of the head's MLP (the bottleneck)
    brings the normalisation and the prototypes of the class token.

    Raises:
        WeightsError: no head, fewer layers, or batch norm, whose statistics would depend on the
            processes.
    """
    if not count:
        return nn.Sequential()
    parts: list[nn.Module] = []
    if head is not None:
        parts = list(head.mlp) if isinstance(head.mlp, nn.Sequential) else [head.mlp]
    linear = [place for place, part in enumerate(parts) if isinstance(part, nn.Linear)]
    if head is None or head.sees_batch or len(linear) < count:
        why = "the weights hold no projection head" if head is None else f"it has {len(linear)}"
        raise WeightsError(
            f"the projection head does not give {count} leading layers",
            why="it has batch norm" if head is not None and head.sees_batch else why,
            fix="use head_layers=0, or weights with such a head",
        )
    if count < len(linear):
        parts = parts[: linear[count]]
    elif head.normalized:
        parts += [UnitLength(), head.cls_layer]
    # Prototypes of fixed length are free here.
    return copy.deepcopy(nn.Sequential(*parts)).requires_grad_(True)


def projected_width(projection: nn.Sequential, width: int) -> int:
    """Width of what `projection` makes of rows of `width`."""
    for part in projection:
        if isinstance(part, nn.Linear):
            width = part.out_features
        elif isinstance(part, Prototypes):
            width = len(part.weight_v)
    return width
