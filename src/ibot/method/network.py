"""What student, teacher and a frozen tokenizer are: a backbone and a projection head."""

from __future__ import annotations

from torch import nn

from ibot.config.schema import Config
from ibot.models.backbone import build_backbone
from ibot.models.head import ProjectionHead


class Network(nn.Module):
    """A backbone and a projection head."""

    def __init__(
        self,
        config: Config,
        *,
        drop_path: float,
        masked: bool,
        shared: bool,
        residual: bool = False,
    ) -> None:
        super().__init__()
        size = config.augment.global_size
        self.backbone = build_backbone(config.model, size, drop_path, masked)
        self.head = ProjectionHead(
            self.backbone.embed_dim, config.head, shared, config.model.init, residual
        )
