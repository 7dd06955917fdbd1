"""Which word each token is: the arg-max over the logits of the head (spec_evaluation 10.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibot.models.head import ProjectionHead

TEMPERATURE = 0.07
"""Of a teacher of which nothing is known; the end of the published warm-up."""
TOKENS = 1024
"""That go through the head at a time, on a CPU."""
LOGITS, LEAST_ROWS = 2**18, 128
"""On a CPU logits are computed a megabyte at a time, which stays in its cache until it is reduced;
but not of fewer tokens than make a product of matrices worth it."""
LOGITS_ON_GPU = 2**26


@dataclass(frozen=True, slots=True)
class Temperatures:
    """What logits are divided by before the soft-max behind confidence and entropy: the teacher's
    own, at the end of its training. Unlike its targets they are not centred: files of weights hold
    no center.
    """

    cls: float = TEMPERATURE
    patch: float = TEMPERATURE


@dataclass(frozen=True, slots=True)
class Assigned:
    """The word of each token; all of one shape, on the device of the tokens."""

    word: Tensor
    """int64, of the largest logit; of equal ones the first."""
    score: Tensor
    """float32, that logit: no soft-max, no centring."""
    confidence: Tensor
    """float32, 0..1: probability of the word under softmax(logits / temperature)."""
    entropy: Tensor
    """float32, of those probabilities, nats: 0 to ln K."""


def assign(
    head: ProjectionHead,
    cls: Tensor,
    patches: Tensor,
    temperatures: Temperatures = Temperatures(),
) -> tuple[Assigned, Assigned]:
    """Words of class tokens [B, D], in shape [B], and of patch tokens [B, N, D], in [B, N].

    temperatures: how sure the head is; the words do not depend on them.
    Tokens go through the whole head in chunks: what is held beside them does not grow with B or N.
    """
    with torch.autocast(cls.device.type, enabled=False):
        return (
            _assigned(head.project, head.cls_layer, cls, temperatures.cls),
            _assigned(head.project_patches, head.patch_layer, patches, temperatures.patch),
        )


def _assigned(
    project: Callable[[Tensor], Tensor], layer: nn.Module, tokens: Tensor, temperature: float
) -> Assigned:
    """Of tokens [..., D], through one last layer."""
    weight, bias = last_weight(layer), getattr(layer, "bias", None)
    rows = tokens.flatten(0, -2)
    if rows.device.type == "cpu":
        count, part = TOKENS, max(LEAST_ROWS, LOGITS // len(weight))
    else:
        count = part = max(1, LOGITS_ON_GPU // len(weight))
    parts = [
        _reduced(F.linear(z, weight, bias), temperature)
        for chunk in rows.split(count)
        for z in project(chunk).split(part)
    ]
    word, score, confidence, entropy = (
        torch.cat(column).view(tokens.shape[:-1]) for column in zip(*parts, strict=True)
    )
    return Assigned(word, score.float(), confidence.float(), entropy.float())


def last_weight(layer: nn.Module) -> Tensor:
    """Matrix of a last layer [K, d], whose rows are the prototypes."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _reduced(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Word, score, confidence, entropy, [R] each, of logits [R, K], which are overwritten."""
    if logits.device.type == "cpu":  # torch's arg-max on a CPU takes ten times as long
        word = torch.from_numpy(logits.numpy().argmax(axis=1))
    else:
        word = logits.argmax(dim=1)
    score = logits.gather(1, word[:, None])
    scaled = logits.sub_(score).mul_(1 / temperature)
    powers = scaled.exp()
    total = powers.sum(dim=1)
    # ln Z - sum p x, with p = powers / total, so that no table of probabilities is needed.
    entropy = total.log() - powers.mul_(scaled).sum(dim=1) / total
    return word, score[:, 0], 1 / total, entropy
