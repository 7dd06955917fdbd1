"""Linear probes on the most attended patches (paper figure 5; spec_evaluation 9.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.config.evaluation import LogisticSettings, PartLinearSettings
from ibot.data.labels import LabelledImages, SubsetImages
from ibot.errors import ConfigError, WeightsError
from ibot.eval.cache import FeatureSet
from ibot.eval.linear import LinearSweep
from ibot.eval.protocol import Context, plain, unreadable
from ibot.eval.protocols import logistic
from ibot.eval.protocols.head import score_images
from ibot.eval.protocols.linear import check_sweep, choice, crop_steps, split, train_sweeps
from ibot.models.layers import Block
from ibot.models.vit import VisionTransformer
from ibot.types import ResultRecord

ATTENTION_IMAGES = 32
"""Images at a time: attention is [b, heads, 1 + N, 1 + N]."""

Means = Callable[[Tensor], Tensor]
"""Normalised images [b, 3, h, w] -> means of their parts float32 [b, K, D]."""


def run(context: Context, settings: PartLinearSettings) -> list[ResultRecord]:
    """One record for each number of patches; all come from the same pass of the network.

    The sweep chooses its rate as the linear probe does: in clean mode on held-out training images after the last
    epoch, in published mode rate and epoch on the split that is reported. The logistic regression: see `logistic`.
    The logistic regression holds the parts of all training images in memory, n x K x D numbers.

    Raises:
        WeightsError: a network without class attention.
        ConfigError: shares, rates, epochs, batch or holdout out of range.
        DataError: no held-out image can be read.
    """
    network = context.loaded.backbone
    if not isinstance(network, VisionTransformer):
        raise WeightsError(
            f"'{context.weights}' is a Swin", why="it has no class token that attends to patches", fix="give a ViT"
        )
    if not settings.shares or not all(0 <= share <= 1 for share in settings.shares):
        raise ConfigError("shares of the patches lie between 0 and 1", fix="for example shares=0,0.5,1")
    rows, columns = network.token_grid(*context.view.size)
    patches = rows * columns
    counts = sorted({max(1, round(share * patches)) for share in settings.shares})

    def means(images: Tensor) -> Tensor:
        tokens = [tokens_and_attention(network, part) for part in images.split(ATTENTION_IMAGES)]
        return torch.cat([part_means(*each, counts, settings.smallest) for each in tokens])

    val = _parts(context, context.val, means, "val")
    kind = settings.probe
    if kind == "auto":
        kind = "sweep" if context.mode == "published" else "logistic"
    records = (_logistic if kind == "logistic" else _sweep)(context, settings, counts, means, val)
    which = "least" if settings.smallest else "most"
    used = {**plain(settings), "probe": kind, "patches": patches, "feature": f"{which} attended"}
    if kind == "logistic":
        used = {name: value for name, value in used.items() if name not in ("rates", "epochs", "batch", "holdout")}
    return [
        replace(
            record,
            protocol="part_linear",
            metric="part_linear_top1",
            settings={**record.settings, **used, "k": k},
            extra={**record.extra, "row": f"{k} of {patches} patches", "share": k / patches},
        )
        for k, record in zip(counts, records, strict=True)
    ]


@torch.no_grad()
def tokens_and_attention(network: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patch tokens of the last block before the final norm, and the attention of its class token to them.

    images: normalised [b, 3, h, w]. Returns [b, N, D] and the mean over heads [b, N], from one pass of the network.
    """
    block = network.blocks[-1]
    assert isinstance(block, Block)
    seen: list[Tensor] = []
    # What goes into the last block, register tokens included, is not among the outputs of the network.
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        patches = network.last_layers(images, 1, norm=False)[0].patches
    finally:
        handle.remove()
    attention = block.attn.probabilities(block.norm1(seen[0]))[:, :, 0, 1 : 1 + patches.shape[1]]
    return patches, attention.mean(dim=1)


def part_means(patches: Tensor, attention: Tensor, counts: list[int], smallest: bool = False) -> Tensor:
    """Means of the most attended patches, for several numbers of them at once.

    Args:
        patches: [b, N, D].
        attention: [b, N]; of equal ones the first counts as larger.
        counts: K numbers between 1 and N.
        smallest: take the least attended ones.

    Returns:
        float32 [b, K, D].

    Raises:
        ValueError: a number of patches that is not there.
    """
    if not counts or not 1 <= min(counts) <= max(counts) <= patches.shape[1]:
        raise ValueError(f"between 1 and {patches.shape[1]} patches can be taken, not {counts}")
    order = attention.argsort(dim=1, descending=not smallest, stable=True)
    sums = patches.float().take_along_dim(order[..., None], dim=1).cumsum(dim=1)
    chosen = torch.tensor(counts, device=patches.device)
    return sums[:, chosen - 1] / chosen[:, None]


def _parts(context: Context, images: LabelledImages, means: Means, name: str) -> FeatureSet:
    """Rows [n, K, D]."""
    return score_images(context, images, lambda views, _: means(views), name)


def _part(features: FeatureSet, number: int) -> FeatureSet:
    return replace(features, rows=features.rows[:, number])


def _logistic(
    context: Context, settings: PartLinearSettings, counts: list[int], means: Means, val: FeatureSet
) -> list[ResultRecord]:
    train = _parts(context, context.train, means, "train")
    return [logistic.probe(context, LogisticSettings(), _part(train, i), _part(val, i)) for i in range(len(counts))]


def _sweep(
    context: Context, settings: PartLinearSettings, counts: list[int], means: Means, val: FeatureSet
) -> list[ResultRecord]:
    """The patches are chosen anew in every crop."""
    check_sweep(settings.rates, settings.epochs, settings.batch, settings.holdout)
    fit, held, chosen_on = split(context, settings.holdout)
    judged = (
        val if context.mode == "published" else _parts(context, SubsetImages(context.train, held), means, "held out")
    )
    batch = min(settings.batch, len(fit))
    rates = [rate * batch / 256 for rate in settings.rates]
    sweeps = {
        k: LinearSweep(val.rows.shape[2], context.num_classes, rates, seed=context.seed, device=context.device)
        for k in counts
    }
    judge = {k: _part(judged, i) for i, k in enumerate(counts)}

    def steps(epoch: int) -> Iterator[tuple[Mapping[int, Tensor], Tensor, int]]:
        return crop_steps(
            context, fit, batch, epoch, lambda images: dict(zip(counts, means(images).unbind(1), strict=True))
        )

    best = train_sweeps(
        context, sweeps, steps, judge, settings.epochs, context.identity("part_linear", plain(settings))
    )
    return [
        context.top(
            "part_linear", F.linear(val.rows[:, i].to(context.device), best[k].weight, best[k].bias).cpu(), val.labels,
            {"batch": batch}, num_train=len(fit), notes=unreadable(val),
            **choice(context, settings.rates, best[k], sweeps[k], judge[k], chosen_on),
        )
        for i, k in enumerate(counts)
    ]  # fmt: skip
