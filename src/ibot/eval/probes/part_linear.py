"""Linear probes on the most attended patches (paper figure 5; spec_evaluation 9.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.data.sets.labelled import LabelledImages, SubsetImages
from ibot.errors import ConfigError, WeightsError
from ibot.eval.context import Context, plain, unreadable
from ibot.eval.features.cache import FeatureSet, cached_features
from ibot.eval.features.tokens import finite
from ibot.eval.probes import logistic
from ibot.eval.probes.linear_sweep import LinearSweep
from ibot.eval.probes.settings import LogisticSettings, PartLinearSettings
from ibot.eval.probes.sweep_steps import crop_steps
from ibot.eval.probes.sweep_training import (
    check_sweep,
    choice,
    few_held_out,
    split,
    train_sweeps,
)
from ibot.eval.state_file import StateFile
from ibot.models.layers import Block
from ibot.models.vit import VisionTransformer
from ibot.types import ResultRecord

ATTENTION_IMAGES = 32
"""Images at a time: attention is [b, heads, 1 + N, 1 + N]."""


@dataclass(frozen=True, slots=True)
class Part:
    """The patches that make a feature."""

    count: int
    """How many."""
    smallest: bool = False
    """Of least attention instead of most."""

    def __str__(self) -> str:
        return f"{self.count} {'least' if self.smallest else 'most'} attended patches"


def run(context: Context, settings: PartLinearSettings) -> list[ResultRecord]:
    """One record for each number of patches; all come from the same pass of the network.

    The sweep chooses its rate as the linear probe does: in clean mode on held-out training images
    after the last epoch, in published mode rate and epoch on the split that is reported. The
    logistic regression: see `logistic`. Means of parts lie in the cache, for the logistic
    regression n x D numbers for each number of patches.

    Raises:
        WeightsError: a network without class attention.
        ConfigError: shares, rates, epochs, batch or holdout out of range.
        DataError: no held-out image can be read.
    """
    network = context.loaded.backbone
    if not isinstance(network, VisionTransformer):
        raise WeightsError(
            f"'{context.weights}' is a Swin",
            why="it has no class token that attends to patches",
            fix="give a ViT",
        )
    if not settings.shares or not all(0 <= share <= 1 for share in settings.shares):
        raise ConfigError(
            "shares of the patches lie between 0 and 1", fix="for example shares=0,0.5,1"
        )
    rows, columns = network.token_grid(*context.view.size)
    patches = rows * columns
    counts = sorted({max(1, round(share * patches)) for share in settings.shares})

    parts = [Part(count, settings.smallest) for count in counts]
    val = _features(context, network, context.val, parts, "val")
    kind = settings.probe
    if kind == "auto":
        kind = "sweep" if context.mode == "published" else "logistic"
    records = (_logistic if kind == "logistic" else _sweep)(context, settings, network, parts, val)
    which = "least" if settings.smallest else "most"
    used = {**plain(settings), "probe": kind, "patches": patches, "feature": f"{which} attended"}
    if kind == "logistic":
        used = {
            name: value
            for name, value in used.items()
            if name not in ("rates", "epochs", "batch", "holdout")
        }
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
    """Patch tokens of the last block before the final norm, and the attention of its class token to
    them.

    images: normalised [b, 3, h, w]. Returns [b, N, D] and the mean over heads [b, N], from one pass
    of the network.
    """
    block = network.blocks[-1]
    assert isinstance(block, Block)
    seen: list[Tensor] = []
    # What goes into the last block, register tokens included, is not among the outputs of the
    # network.
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        patches = network.last_layers(images, 1, norm=False)[0].patches
    finally:
        handle.remove()
    attention = block.attn.probabilities(block.norm1(seen[0]))[:, :, 0, 1 : 1 + patches.shape[1]]
    return patches, attention.mean(dim=1)


def part_means(
    patches: Tensor, attention: Tensor, counts: list[int], smallest: bool = False
) -> Tensor:
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


def means_of_parts(
    network: VisionTransformer, images: Tensor, parts: Sequence[Part]
) -> dict[Part, Tensor]:
    """float32 [b, D] for each of `parts`, all of them most or all least attended, from one pass of
    the network.

    images: normalised [b, 3, h, w].
    """
    counts = [part.count for part in parts]
    tokens = [tokens_and_attention(network, some) for some in images.split(ATTENTION_IMAGES)]
    means = finite(torch.cat([part_means(*each, counts, parts[0].smallest) for each in tokens]))
    return dict(zip(parts, means.unbind(1), strict=True))


def _features(
    context: Context,
    network: VisionTransformer,
    images: LabelledImages,
    parts: Sequence[Part],
    name: str,
) -> dict[Part, FeatureSet]:
    """Means of the parts of a set by name, from the cache where they are there."""
    return cached_features(
        network,
        context.weights_hash,
        images,
        context.view,
        parts,
        context.cache,
        extract=partial(means_of_parts, network),
        batch=context.batch,
        device=context.device,
        workers=context.workers,
        processes=context.processes,
        progress=context.counter(name),
    )


def _logistic(
    context: Context,
    settings: PartLinearSettings,
    network: VisionTransformer,
    parts: list[Part],
    val: dict[Part, FeatureSet],
) -> list[ResultRecord]:
    train = _features(context, network, context.train, parts, "train")
    return [logistic.probe(context, LogisticSettings(), train[part], val[part]) for part in parts]


def _sweep(
    context: Context,
    settings: PartLinearSettings,
    network: VisionTransformer,
    parts: list[Part],
    val: dict[Part, FeatureSet],
) -> list[ResultRecord]:
    """The patches are chosen anew in every crop."""
    check_sweep(settings.rates, settings.epochs, settings.batch, settings.holdout)
    fit, held, chosen_on = split(context.train, settings.holdout, context.mode, context.seed)
    judge = val
    if context.mode == "clean":
        judge = _features(context, network, SubsetImages(context.train, held), parts, "held out")
    batch = min(settings.batch, len(fit))
    rates = [rate * batch / 256 for rate in settings.rates]
    sweeps = {
        part: LinearSweep(
            val[part].rows.shape[1],
            context.num_classes,
            rates,
            seed=context.seed,
            device=context.device,
        )
        for part in parts
    }
    identity = context.identity("part_linear", plain(settings))
    trained = train_sweeps(
        sweeps,
        crop_steps(context, fit, batch, partial(means_of_parts, network, parts=parts)),
        judge,
        epochs=settings.epochs,
        over_epochs=context.mode == "published",
        state=StateFile(context.out / f"sweep-{identity}.state", context.processes),
        progress=context.counter("epochs"),
    )
    best = {part: found.best for part, found in trained.items()}
    return [
        context.top(
            "part_linear",
            F.linear(val[part].rows.to(context.device), best[part].weight, best[part].bias).cpu(),
            val[part].labels,
            {"batch": batch},
            num_train=len(fit),
            notes=unreadable(val[part]) + few_held_out(judge[part], chosen_on),
            **choice(settings.rates, trained[part], chosen_on),
        )
        for part in parts
    ]
