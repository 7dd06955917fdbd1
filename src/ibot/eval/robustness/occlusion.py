"""Accuracy with patches dropped, at random or by attention (figure 9, table 8; evaluation 9.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import renormalize
from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import LabelledFeatures, unreadable
from ibot.eval.features.tokens import ATTENTION_IMAGES
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.request import Mode
from ibot.eval.robustness.occlude import (
    at_ratio,
    drop_counts,
    drop_patches,
    random_patches,
)
from ibot.eval.robustness.settings import OcclusionSettings
from ibot.eval.robustness.tested_classifier import (
    classifier_for,
    draw_number,
    head_notes,
    head_settings,
    published_view,
    score_labelled,
)
from ibot.eval.scores import bootstrap_mean
from ibot.models.attention import foreground
from ibot.models.contract import Backbone
from ibot.types import ResultRecord
from ibot.weights.read import load

RATIO = 0.5
"""Information loss at which the table of the paper reads the curves."""
NAMES = {"R": "random", "S": "salient", "NS": "non-salient"}


@dataclass(frozen=True, slots=True)
class Drop:
    """One point of a curve."""

    curve: str
    """R, S or NS."""
    amount: float
    """R: share of the patches; S, NS: share of the attention that counts as foreground."""
    dropped: Callable[[NDArray[np.int64], Tensor | None], Tensor]
    """Numbers int64 [b] and attention [b, N] (None for R) -> dropped patches bool [b, N]."""


def run(context: LabelledContext, settings: OcclusionSettings) -> list[ResultRecord]:
    """A record of the images as they are, and one per curve: the accuracy at half of the patches.

    It is linear between the points of the curve, which `extra` holds. Draws and foregrounds belong
    to an image; in published mode neighbouring images share their random draw.

    Raises:
        ConfigError: steps, masses or a head that do not fit, or a curve that does not reach half of
            the patches.
        DataError: see `classifier_for`.
        WeightsError: `settings.saliency` cannot be read.
    """
    _check(settings)
    classifier = classifier_for(context)
    notes = head_notes(context, classifier)
    context = published_view(context)
    saliency = _saliency(context, settings, classifier, notes)
    size, seed, mode = context.view.size, context.seed, context.mode
    drops = _random_drops(math.prod(_grid(size, classifier.backbone)), settings.steps, seed, mode)
    drops += _attended_drops(settings) if saliency is not None else []
    labels = torch.from_numpy(context.val.labels.astype(np.int64))
    scorer = _Scorer(labels, classifier, saliency, settings.head, drops)
    found = score_labelled(context, context.val, scorer, "occlusion")
    notes += unreadable(found)
    if context.mode == "published":
        notes.append("neighbouring images share a random choice, as in the published runs")
    if context.mode == "published" and not settings.saliency:
        notes.append(
            "the evaluated network decides what is salient; published: DINO's, "
            "saliency=timm:vit_small_patch16_224.dino head=1"
        )
    used = {**plain(settings), **head_settings(classifier)}
    curves = [curve for curve in NAMES if any(drop.curve == curve for drop in drops)]
    hits = found.rows[:, 0, 0].bool()  # the random curve begins with no patches
    whole = context.accuracy(
        "occlusion", hits, found.labels, used, row="no patches dropped", notes=notes
    )
    return [whole, *(_record(context, used, drops, found, curve, notes) for curve in curves)]


def _check(settings: OcclusionSettings) -> None:
    masses = settings.masses
    if settings.steps < 1 or not masses or not all(0 <= mass <= 1 for mass in masses):
        raise ConfigError(
            "occlusion needs steps of at least 1 and masses between 0 and 1",
            fix="for example steps=10 masses=0,0.5,1",
        )


def _saliency(
    context: LabelledContext,
    settings: OcclusionSettings,
    classifier: LinearClassifier,
    notes: list[str],
) -> Backbone | None:
    """The network whose attention decides; None, with a note, where there is no class attention."""
    network = classifier.backbone
    if settings.saliency:
        network = load(settings.saliency).backbone.to(context.device)
    heads = network.class_heads
    if not heads:
        notes.append(
            f"a {network.family} has no class token that attends: patches are dropped at random "
            "only; saliency=WEIGHTS names a ViT whose attention decides"
        )
        return None
    if not -1 <= settings.head < heads:
        raise ConfigError(
            f"head={settings.head}, but the network has {heads} heads", fix=f"-1 to {heads - 1}"
        )
    return network


def _grid(size: Sequence[int], backbone: Backbone) -> tuple[int, int]:
    """Whole patches of views of a size."""
    height, width = size
    return height // backbone.patch_size, width // backbone.patch_size


def _random_drops(patches: int, steps: int, seed: int, mode: Mode) -> list[Drop]:
    def drop(count: int) -> Drop:
        def dropped(index: NDArray[np.int64], _: Tensor | None) -> Tensor:
            return random_patches(draw_number(index, mode), patches, count, seed)

        return Drop("R", count / patches, dropped)

    return [drop(count) for count in dict.fromkeys(drop_counts(patches, steps))]


def _attended_drops(settings: OcclusionSettings) -> list[Drop]:
    def drop(mass: float, inverse: bool) -> Drop:
        def dropped(_: NDArray[np.int64], attention: Tensor | None) -> Tensor:
            assert attention is not None
            return foreground(attention, mass) ^ inverse

        return Drop("NS" if inverse else "S", mass, dropped)

    return [drop(mass, inverse) for inverse in (False, True) for mass in settings.masses]


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Hit and share of dropped patches for each point: float32 [b, P, 2].

    Attention is computed once per image.
    """

    labels: Tensor
    """int64 [n], of all images."""
    classifier: LinearClassifier
    saliency: Backbone | None
    head: int
    """Whose attention decides; -1: the mean over heads."""
    drops: list[Drop]

    def __call__(self, images: Tensor, index: NDArray[np.int64]) -> Tensor:
        labels = self.labels[torch.from_numpy(index)].to(images.device)
        attention, own = self._attention(images), self.classifier.backbone
        points = []
        for drop in self.drops:
            network = own if drop.curve == "R" else self.saliency or own
            dropped = drop.dropped(index, attention).to(images.device)
            grid = _grid(images.shape[-2:], network)
            changed = drop_patches(images, dropped, grid, network.patch_size)
            hits = self.classifier.logits(changed).argmax(dim=1) == labels
            points.append(torch.stack([hits.float(), dropped.float().mean(dim=1)], dim=1))
        return torch.stack(points, dim=1)

    @torch.no_grad()
    def _attention(self, images: Tensor) -> Tensor | None:
        """Of the chosen head, or the mean over heads: [b, N]."""
        network = self.saliency
        if network is None:
            return None
        own, wanted = self.classifier.backbone.statistics, network.statistics
        parts = [renormalize(part, own, wanted) for part in images.split(ATTENTION_IMAGES)]
        maps = torch.cat([network.tokens_and_attention(part)[1] for part in parts])
        return maps.mean(dim=1) if self.head < 0 else maps[:, self.head]


def _record(
    context: LabelledContext,
    used: dict[str, Any],
    drops: list[Drop],
    found: LabelledFeatures,
    curve: str,
    notes: list[str],
) -> ResultRecord:
    """Accuracy at half of the patches. found: hit and share of each point, rows [n, P, 2]."""
    chosen = [i for i, drop in enumerate(drops) if drop.curve == curve]
    hits, shares = found.rows[:, chosen].double().unbind(dim=2)
    ratios = shares.mean(dim=0).tolist()
    try:
        # The reading is linear in the accuracies, so that each image has its part of it.
        parts = [at_ratio(ratios, row, RATIO) for row in np.eye(len(ratios)).tolist()]
    except ValueError as error:
        raise ConfigError(
            f"the {NAMES[curve]} curve does not reach half of the patches",
            why=str(error),
            fix="take steps=10, or larger views" if curve == "R" else "add the masses 0 and 1",
        ) from None
    values = 100 * hits @ hits.new_tensor(parts)
    return context.record(
        "occlusion",
        f"occlusion_{curve}.5",
        values.mean().item(),
        used,
        interval=bootstrap_mean(values, context.seed),
        num_val=len(hits),
        row=f"{curve}.5 ({NAMES[curve]})",
        curve={
            "amount": [drops[i].amount for i in chosen],
            "ratio": ratios,
            "accuracy": (100 * hits.mean(dim=0)).tolist(),
        },
        notes=notes,
    )
