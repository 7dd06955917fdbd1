"""A backbone with a linear head and what it expects of its input, as one file (9.7)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibot.config.override import from_plain, to_plain
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.eval.features.tokens import Feature, compute, finite
from ibot.eval.features.views import View
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone
from ibot.system.files import write_atomically
from ibot.weights.read import refuse_bad_numbers
from ibot.weights.write import save_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearClassifier:
    """Images to class scores."""

    backbone: Backbone
    """In evaluation mode."""
    config: ModelConfig
    weight: Tensor
    """[C, d]."""
    bias: Tensor
    """[C]."""
    feature: Feature
    unit: bool
    """Whether features are scaled to length 1 before the head."""
    view: View
    classes: tuple[str, ...]
    about: dict[str, Any]
    """How the head was trained."""

    def logits(self, images: Tensor) -> Tensor:
        """Scores [B, C] of normalised images [B, 3, H, W]."""
        return self.head(compute(self.backbone, images, (self.feature,))[self.feature])

    def head(self, features: Tensor) -> Tensor:
        """Scores [B, C] of features [B, d]. Raises WeightsError unless they are finite."""
        if self.unit:
            features = F.normalize(features, dim=-1)
        return finite(F.linear(features, self.weight, self.bias))

    def to(self, device: torch.device) -> LinearClassifier:
        """The same on another device."""
        return replace(
            self,
            backbone=self.backbone.to(device),
            weight=self.weight.to(device),
            bias=self.bias.to(device),
        )

    def save(self, file: Path) -> None:
        """Write a safetensors file, whole or absent. Raises ResourceError on a full disk."""
        tensors = {
            f"backbone.{name}": tensor for name, tensor in self.backbone.state_dict().items()
        }
        tensors |= {"linear.weight": self.weight, "linear.bias": self.bias}
        about = {
            "model": to_plain(self.config),
            "feature": str(self.feature),
            "unit": self.unit,
            "view": asdict(self.view),
            "classes": self.classes,
            "about": self.about,
        }
        copies = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        # As in the files of a run: with it the backbone is found like that of any other weights.
        config = {"model": about["model"], "augment": {"global_size": list(self.view.size)}}
        metadata = {"classifier": json.dumps(about), "config": json.dumps(config)}
        write_atomically(file, lambda path: save_tensors(copies, path, metadata))


def load_classifier(path: str | Path) -> LinearClassifier | None:
    """Read what `LinearClassifier.save` wrote; None for any other file.

    Raises WeightsError for a damaged one, and for NaN and infinity in it.
    """
    file = Path(path)
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if "classifier" not in metadata:
                return None
            about = json.loads(metadata["classifier"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"'{file}' cannot be read", why=str(error), fix="copy the file again"
        ) from None
    config = from_plain({"model": about["model"]}, str(file)).model
    view = View(**{**about["view"], "size": tuple(about["view"]["size"])})
    backbone = build_backbone(config, view.size)
    prefix = "backbone."
    refuse_bad_numbers(
        str(file), tensors, {f"{prefix}{name}": own for name, own in backbone.state_dict().items()}
    )
    backbone.load_state_dict(
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    )
    return LinearClassifier(
        backbone=backbone.eval(),
        config=config,
        weight=tensors["linear.weight"],
        bias=tensors["linear.bias"],
        feature=Feature.parse(about["feature"]),
        unit=about["unit"],
        view=view,
        classes=tuple(about["classes"]),
        about=about["about"],
    )
