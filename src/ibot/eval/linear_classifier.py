"""A network with a linear head and what it expects of its images, as one file (9.7)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ibot.config.override import from_plain, to_plain
from ibot.config.reading import Channels, Opening, Windows
from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.eval.features.tokens import Feature, compute, finite
from ibot.eval.features.views import View
from ibot.eval.hidden_layers import kinds_of, layers_of
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
    hidden: nn.Sequential = field(default_factory=nn.Sequential)
    """What stands between the feature and the head: layers of the projection head; mostly none."""
    view: View
    opening: Opening = field(default_factory=Opening)
    """How the images were opened that it learnt from."""
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
        return finite(F.linear(self.hidden(features), self.weight, self.bias))

    def to(self, device: torch.device) -> LinearClassifier:
        """The same on another device."""
        return replace(
            self,
            backbone=self.backbone.to(device),
            weight=self.weight.to(device),
            bias=self.bias.to(device),
            hidden=self.hidden.to(device),
        )

    def save(self, file: Path) -> None:
        """Write a safetensors file, whole or absent. Raises ResourceError on a full disk."""
        write_atomically(file, self.write)

    def write(self, path: Path) -> None:
        """Write its tensors, and as JSON beside them all else."""
        tensors = {
            f"backbone.{name}": tensor for name, tensor in self.backbone.state_dict().items()
        }
        tensors |= {f"hidden.{name}": tensor for name, tensor in self.hidden.state_dict().items()}
        tensors |= {"linear.weight": self.weight, "linear.bias": self.bias}
        about = {
            "model": to_plain(self.config),
            "feature": str(self.feature),
            "unit": self.unit,
            "hidden": kinds_of(self.hidden),
            "view": asdict(self.view),
            "opening": asdict(self.opening),
            "classes": self.classes,
            "about": self.about,
        }
        copies = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        # As in the files of a run: with it the backbone is found like that of any other weights.
        config = {"model": about["model"], "augment": {"global_size": list(self.view.size)}}
        metadata = {"classifier": json.dumps(about), "config": json.dumps(config)}
        save_tensors(copies, path, metadata)


def use_note(file: Path) -> str:
    """What to say of a classifier that was written."""
    command = shlex.join(["ibot", "predict", str(file)])
    return f"the classifier is in {file}; use it: {command} IMAGES"


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
        # The start that the weights replace is no business of the caller's random numbers.
        with torch.random.fork_rng([]):
            return _built(str(file), about, tensors)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"'{file}' cannot be read", why=why, fix="copy the file again") from None


def _built(source: str, about: dict[str, Any], tensors: Mapping[str, Tensor]) -> LinearClassifier:
    """The classifier of a file's tensors; what is wrong with them raises almost anything."""
    config = from_plain({"model": about["model"]}, source).model
    view = View(**{**about["view"], "size": tuple(about["view"]["size"])})
    backbone = build_backbone(config, view.size)
    of_backbone = _below("backbone.", tensors)
    own = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    refuse_bad_numbers(source, tensors, own)
    backbone.load_state_dict(of_backbone)
    weight, bias, classes = tensors["linear.weight"], tensors["linear.bias"], about["classes"]
    if not len(weight) == len(bias) == len(classes):
        raise ValueError(f"{len(classes)} names of classes for a head of {len(weight)} rows")
    return LinearClassifier(
        backbone=backbone.eval(),
        config=config,
        weight=weight,
        bias=bias,
        feature=Feature.parse(about["feature"]),
        unit=about["unit"],
        hidden=layers_of(about.get("hidden", ()), _below("hidden.", tensors)),
        view=view,
        opening=_opening(about.get("opening", {})),  # absent in files of before
        classes=tuple(classes),
        about=about["about"],
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _opening(stored: dict[str, Any]) -> Opening:
    """The inverse of `asdict` as JSON has it, whose lists were tuples."""
    if not stored:
        return Opening()
    channels: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in stored["channels"].items()
    }
    parts = {"channels": Channels(**channels), "windows": Windows(**stored["windows"])}
    return Opening(**{**stored, **parts})
