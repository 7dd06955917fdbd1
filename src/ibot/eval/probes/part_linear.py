"""Linear probes on the most attended patches (paper figure 5; spec_evaluation 9.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.data.sets.images import LabelledImages
from ibot.data.sets.subsets import LabelledSubset
from ibot.errors import ConfigError, WeightsError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, unreadable
from ibot.eval.features.tokens import ATTENTION_IMAGES, finite
from ibot.eval.labelled import LabelledContext
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
from ibot.eval.request import Mode
from ibot.eval.state_file import StateFile
from ibot.models.contract import Backbone
from ibot.types import ResultRecord


@dataclass(frozen=True, slots=True)
class Part:
    """The patches that make a feature."""

    count: int
    """How many."""
    smallest: bool = False
    """Of least attention instead of most."""

    def __str__(self) -> str:
        return f"{self.count} {self.which} attended patches"

    @property
    def which(self) -> str:
        """In words."""
        return "least" if self.smallest else "most"


def run(context: LabelledContext, settings: PartLinearSettings) -> list[ResultRecord]:
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
    parts, patches = _parts(context, settings)
    val = _features(context, context.val, parts, "val")
    sweep = _by_sweep(settings, context.mode)
    if sweep:
        found = _swept(context, settings, parts, val)
    else:
        train = _features(context, context.train, parts, "train")
        found = [logistic.probe(context, LogisticSettings(), train[p], val[p]) for p in parts]
    used = {**_used(settings, sweep), "patches": patches}
    return [_record(part, used, one) for part, one in zip(parts, found, strict=True)]


def _parts(context: LabelledContext, settings: PartLinearSettings) -> tuple[list[Part], int]:
    """What the settings ask for, and how many patches there are."""
    backbone, shares = context.loaded.backbone, settings.shares
    if not backbone.class_heads:
        raise WeightsError(
            f"'{context.weights}' is a {backbone.family}",
            why="it has no class token that attends to patches",
            fix="give a ViT",
        )
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ConfigError(
            "shares of the patches lie between 0 and 1", fix="for example shares=0,0.5,1"
        )
    rows, columns = backbone.token_grid(*context.view.size)
    counts = sorted({max(1, round(share * rows * columns)) for share in shares})
    return [Part(count, settings.smallest) for count in counts], rows * columns


def _by_sweep(settings: PartLinearSettings, mode: Mode) -> bool:
    return settings.probe == "sweep" or (settings.probe == "auto" and mode == "published")


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


@torch.no_grad()
def means_of_parts(backbone: Backbone, images: Tensor, parts: Sequence[Part]) -> dict[Part, Tensor]:
    """float32 [b, D] for each of `parts`, all most or all least attended, in one pass.

    Tokens are those of the last block before the final norm; attention is the mean over its heads.
    images: normalised [b, 3, h, w].
    """
    counts, means = [part.count for part in parts], []
    for some in images.split(ATTENTION_IMAGES):
        tokens, attention = backbone.tokens_and_attention(some, norm=False)
        means.append(part_means(tokens.patches, attention.mean(dim=1), counts, parts[0].smallest))
    return dict(zip(parts, finite(torch.cat(means)).unbind(1), strict=True))


def _features(
    context: LabelledContext, images: LabelledImages, parts: Sequence[Part], name: str
) -> dict[Part, LabelledFeatures]:
    """Means of the parts of a set by name, from the cache where they are there."""
    extract = partial(means_of_parts, context.loaded.backbone)
    return context.features(images, name, parts, extract)


def _swept(
    context: LabelledContext,
    settings: PartLinearSettings,
    parts: list[Part],
    val: dict[Part, LabelledFeatures],
) -> list[ResultRecord]:
    """Records of the sweep; the patches are chosen anew in every crop."""
    check_sweep(settings.rates, settings.epochs, settings.batch, settings.holdout)
    fit, held, chosen_on = split(context.train, settings.holdout, context.mode, context.seed)
    judge = val
    if context.mode == "clean":
        judge = _features(context, LabelledSubset(context.train, held), parts, "held out")
    batch = min(settings.batch, len(fit))
    rates = [rate * batch / 256 for rate in settings.rates]
    width, seed, device = context.loaded.backbone.embed_dim, context.seed, context.device
    sweeps = {
        part: LinearSweep(width, context.num_classes, rates, seed=seed, device=device)
        for part in parts
    }
    extract = partial(means_of_parts, context.loaded.backbone, parts=parts)
    identity = context.identity("part_linear", plain(settings))
    trained = train_sweeps(
        sweeps,
        crop_steps(context, fit, batch, extract),
        judge,
        epochs=settings.epochs,
        over_epochs=context.mode == "published",
        state=StateFile(context.out / f"sweep-{identity}.state", context.processes),
        progress=context.counter("epochs"),
    )
    records = []
    for part in parts:
        one, rows = trained[part].best, val[part].rows.to(device)
        records.append(
            context.top(
                "part_linear",
                F.linear(rows, one.weight, one.bias).cpu(),
                val[part].labels,
                {"batch": batch},
                num_train=len(fit),
                notes=unreadable(val[part]) + few_held_out(judge[part], chosen_on),
                **choice(settings.rates, trained[part], chosen_on),
            )
        )
    return records


def _used(settings: PartLinearSettings, sweep: bool) -> dict[str, Any]:
    """The settings that count, as a record holds them."""
    used = {**plain(settings), "probe": "sweep" if sweep else "logistic"}
    unused = () if sweep else ("rates", "epochs", "batch", "holdout")
    return {name: value for name, value in used.items() if name not in unused}


def _record(part: Part, used: dict[str, Any], found: ResultRecord) -> ResultRecord:
    """The record of a part from that of its probe."""
    k, patches = part.count, used["patches"]
    return replace(
        found,
        protocol="part_linear",
        metric="part_linear_top1",
        settings={**found.settings, **used, "feature": f"{part.which} attended", "k": k},
        row=f"{k} of {patches} patches",
        extra={**found.extra, "share": k / patches},
    )
