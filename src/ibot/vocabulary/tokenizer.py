"""The tokenizer of weights: the head whose prototypes are the words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.config.override import from_plain
from ibot.errors import RunError, WeightsError
from ibot.eval.context import Context
from ibot.models.head import ProjectionHead
from ibot.vocabulary.assign import TEMPERATURE, Temperatures, last_weight
from ibot.weights.files import is_configuration, locate, read_settings
from ibot.weights.head import projection_head
from ibot.weights.read import Weights, load_weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights as they were read, and how far they were trained."""

    path: Path
    weights: Weights
    step: int | None
    images_seen: int | None
    """None of weights that are no checkpoint of a run of ours."""

    @classmethod
    def read(cls, path: str | Path, key: str) -> Checkpoint:
        """Read what a path means. Raises WeightsError."""
        state = read_settings(locate(Path(path), key).parent / "state.json")
        weights = load_weights(path, key)
        return cls(Path(path), weights, state.get("step"), state.get("images_seen"))

    @property
    def name(self) -> str:
        """In a word or two."""
        return self.path.name if self.step is None else f"step {self.step}"


def tokenizer(context: Context, weights: Weights | None = None) -> ProjectionHead:
    """The head beside the network of `context`, in evaluation mode on its device.

    weights: those of the network, where they were read before. Raises WeightsError where they hold
    no head, and RunError for a run that has written another checkpoint since the network was read.
    """
    weights = weights or load_weights(context.weights, context.key)
    head = projection_head(weights, context.loaded.backbone.embed_dim, context.key)
    if head is None:
        raise WeightsError(
            f"'{context.weights}' holds no projection head",
            why="words are the prototypes of the head; without it there are attention, features, "
            "matches and the map",
            fix="give a run, one of its checkpoints, or a full published checkpoint: "
            "ibot:vit_s16-full",
        )
    _check_same(context, weights)
    return head.to(context.device)


def temperatures_of(weights: Weights) -> Temperatures:
    """The temperatures that a training ends with, by the settings beside its weights: those of a
    run of ours, or the published arguments; 0.07 where nothing is said.
    """
    settings = weights.settings
    if is_configuration(settings):
        method = from_plain(settings).method
        return Temperatures(method.teacher_temp, method.patch_temp)
    return Temperatures(
        _temperature(settings.get("teacher_temp")), _temperature(settings.get("teacher_patch_temp"))
    )


def _temperature(said: Any) -> float:
    return float(said) if isinstance(said, float | int) and said > 0 else TEMPERATURE


def _check_same(context: Context, weights: Weights) -> None:
    """The network may have been read before the run wrote its next checkpoint."""
    own = dict(context.loaded.backbone.named_parameters())
    name = "patch_embed.proj.weight"
    read, held = weights.backbone.get(name), own.get(name)
    if read is None or held is None or read.shape != held.shape:
        return
    if not torch.equal(read.to(held.dtype), held.detach().cpu()):
        raise RunError(
            f"'{context.weights}' has changed since its network was read",
            why="the run goes on",
            fix="run the same command again, or name one of the checkpoint folders",
        )


def head_hash(head: ProjectionHead) -> str:
    """SHA-256 over names, shapes and bytes of its tensors, and which rows have words."""
    digest = hashlib.sha256(b"residual;" if head.residual else b"")
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def prototypes(layer: nn.Module) -> Tensor:
    """Rows of a last layer, of length 1: float32 [K, d], on the CPU.

    Of a head without bottleneck these are the rows of its plain linear layer; offsets do not count.
    """
    return F.normalize(last_weight(layer).float().cpu(), dim=1)
