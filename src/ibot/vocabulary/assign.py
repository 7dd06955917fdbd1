"""Which word each token is: the arg-max over the logits of the head (spec_evaluation 10.2)."""

from __future__ import annotations

from collections.abc import Iterator
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
    Tokens go through the whole head in chunks: what is held beside them does not grow with B or N,
    but for the projected patches of a view, where its words are of `residual` ones.
    """
    with torch.autocast(cls.device.type, enabled=False):
        count, part = _chunks(head.cls_layer, cls)
        of_cls = (head.project(chunk) for chunk in cls.split(count))
        found = _assigned(of_cls, head.cls_layer, part, temperatures.cls, cls.shape[:1])
        count, part = _chunks(head.patch_layer, patches)
        of_patches = _patch_rows(head, patches, count)
        shape = patches.shape[:2]
        return found, _assigned(of_patches, head.patch_layer, part, temperatures.patch, shape)


def _chunks(layer: nn.Module, tokens: Tensor) -> tuple[int, int]:
    """How many tokens go through the head at a time, and how many through its last layer."""
    num_words = len(last_weight(layer))
    if tokens.device.type == "cpu":
        return TOKENS, max(LEAST_ROWS, LOGITS // num_words)
    count = max(1, LOGITS_ON_GPU // num_words)
    return count, count


def _patch_rows(head: ProjectionHead, patches: Tensor, count: int) -> Iterator[Tensor]:
    """`head.patch_rows` of patches [B, N, D], flat, about `count` at a time."""
    if not head.residual:
        for chunk in patches.flatten(0, 1).split(count):
            yield head.project_patches(chunk)
        return
    num_patches = patches.shape[1]
    for views in patches.split(max(1, count // num_patches)):
        chunks = views.flatten(0, 1).split(count)
        projected = torch.cat([head.project_patches(chunk) for chunk in chunks])
        yield head.rows_of_views(projected.unflatten(0, (-1, num_patches))).flatten(0, 1)


def _assigned(
    projected: Iterator[Tensor],
    layer: nn.Module,
    part: int,
    temperature: float,
    shape: torch.Size,
) -> Assigned:
    """Of rows [.., d] in chunks, through one last layer `part` at a time; all in one `shape`."""
    weight, bias = last_weight(layer), getattr(layer, "bias", None)
    parts = [
        _reduced(F.linear(z, weight, bias), temperature)
        for rows in projected
        for z in rows.split(part)
    ]
    word, score, confidence, entropy = (
        torch.cat(column).view(shape) for column in zip(*parts, strict=True)
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
