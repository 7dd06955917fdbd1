"""Linear probes on the most attended patches (paper figure 5; spec_evaluation 9.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.evaluation import LogisticSettings, PartLinearSettings
from ibot.data.labels import LabelledImages, SubsetImages
from ibot.data.pixels import normalize
from ibot.data.subsets import split_labelled
from ibot.errors import ConfigError, WeightsError
from ibot.eval.cache import FeatureSet
from ibot.eval.crops import crop_batches
from ibot.eval.linear import LinearSweep, cosine_factor
from ibot.eval.protocol import Context, plain, unreadable
from ibot.eval.protocols import logistic
from ibot.eval.protocols.head import score_images
from ibot.eval.protocols.linear import Best, hits
from ibot.eval.views import in_batches
from ibot.models.layers import Block
from ibot.models.vit import VisionTransformer
from ibot.rng import permutation
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
        DataError: as `split_labelled`.
    """
    network = context.loaded.backbone
    if not isinstance(network, VisionTransformer):
        raise WeightsError(
            f"'{context.weights}' is a Swin", why="it has no class token that attends to patches", fix="give a ViT"
        )
    if not settings.shares or not all(0 <= share <= 1 for share in settings.shares):
        raise ConfigError("shares of the patches lie between 0 and 1", fix="for example shares=0,0.5,1")
    if not settings.rates or settings.epochs < 1 or settings.batch < 1 or not 0 < settings.holdout < 1:
        raise ConfigError("rates, epochs, batch and holdout of the sweep must be positive, holdout below 1")
    rows, columns = network.token_grid(*context.view.size)
    patches = rows * columns
    counts = sorted({max(1, round(share * patches)) for share in settings.shares})

    def means(images: Tensor) -> Tensor:
        tokens = [tokens_and_attention(network, part) for part in images.split(ATTENTION_IMAGES)]
        return torch.cat([part_means(*each, counts, settings.smallest) for each in tokens])

    val = _parts(context, context.val, means, "val")
    probe = _logistic if settings.probe == "logistic" else _sweep
    records = probe(context, settings, counts, means, val)
    which = "least" if settings.smallest else "most"
    return [
        replace(
            record,
            protocol="part_linear",
            metric="part_linear_top1",
            settings={**plain(settings), **record.settings, "k": k, "patches": patches, "feature": f"{which} attended"},
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
    fit, judge = np.arange(len(context.train)), val
    if context.mode == "clean":
        fitted, held = split_labelled(context.train, settings.holdout, context.seed)
        fit, judge = fitted.indices, _parts(context, SubsetImages(context.train, held.indices), means, "held out")
    batch = min(settings.batch, len(fit))
    rates = [rate * batch / 256 for rate in settings.rates]
    sweeps = [
        LinearSweep(val.rows.shape[2], context.num_classes, rates, seed=context.seed, device=context.device)
        for _ in counts
    ]
    best: dict[int, Best] = {}
    scores: list[Tensor] = []
    counter = context.counter("epochs")
    for epoch in range(settings.epochs):
        factor = cosine_factor(epoch, settings.epochs)
        for found, labels, total in _steps(context, means, fit, batch, epoch):
            for i, sweep in enumerate(sweeps):
                sweep.step(found[:, i], labels, factor, total)
        if context.mode == "published" or epoch == settings.epochs - 1:
            scores = [_accuracies(context, sweep, _part(judge, i)) for i, sweep in enumerate(sweeps)]
            for i, sweep in enumerate(sweeps):
                _keep_best(best, i, sweep, scores[i], epoch)
        if counter is not None:
            counter(epoch + 1, settings.epochs)
    return [_report(context, settings, best[i], scores[i], _part(val, i), batch) for i in range(len(counts))]


def _accuracies(context: Context, sweep: LinearSweep, judge: FeatureSet) -> Tensor:
    """Share of right answers of each rate: float64 [R]."""
    return hits(sweep, judge, context.device).double().mean(dim=1)


def _steps(
    context: Context, means: Means, fit: NDArray[np.int64], batch: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Parts [b, K, D] and labels of this process's random crops in each step, and the images of the whole step.

    The patches are chosen anew in every crop.
    """
    whole = in_batches(fit[permutation(context.seed, epoch, len(fit))], batch)
    mine = [part[context.processes.rank :: context.processes.world_size] for part in whole]
    labels = torch.from_numpy(context.train.labels.astype(np.int64))
    crops = crop_batches(context.train, context.view.size, mine, context.seed, epoch, context.workers)
    for part, all_of_it in zip(crops, whole, strict=True):
        truth = labels[torch.from_numpy(part.positions)].to(context.device)
        pieces = part.views.split(context.batch)
        yield torch.cat([means(normalize(piece.to(context.device))) for piece in pieces]), truth, len(all_of_it)


def _keep_best(best: dict[int, Best], part: int, sweep: LinearSweep, scores: Tensor, epoch: int) -> None:
    rate = int(scores.argmax())
    if part not in best or scores[rate] > best[part].score:
        best[part] = Best(scores[rate].item(), epoch, rate, sweep.weight[rate].clone(), sweep.bias[rate].clone())


def _report(
    context: Context, settings: PartLinearSettings, best: Best, scores: Tensor, val: FeatureSet, batch: int
) -> ResultRecord:
    """scores: of the last epoch [R]."""
    logits = F.linear(val.rows.to(context.device), best.weight, best.bias).cpu()
    rate = settings.rates[best.rate]
    return context.top(
        "part_linear", logits, val.labels, {"batch": batch}, chosen=f"rate {rate:g}, epoch {best.epoch + 1}",
        chosen_on="val, over epochs and rates" if context.mode == "published" else "held-out training images",
        rates={f"{rate:g}": 100 * score for rate, score in zip(settings.rates, scores.tolist(), strict=True)},
        notes=unreadable(val),
    )  # fmt: skip
