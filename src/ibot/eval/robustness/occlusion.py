"""Accuracy with patches dropped, at random or by their attention (paper figure 9, table 8;
spec_evaluation 9.5).
"""

from __future__ import annotations

from collections.abc import Callable
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
from ibot.eval.labelled import LabelledContext
from ibot.eval.linear_classifier import LinearClassifier
from ibot.eval.robustness.occlude import (
    at_ratio,
    drop_counts,
    drop_patches,
    random_patches,
    salient_patches,
)
from ibot.eval.robustness.settings import OcclusionSettings
from ibot.eval.robustness.tested_classifier import (
    classifier_for,
    draw_number,
    head_notes,
    head_settings,
    published_view,
    score_images,
)
from ibot.eval.scores import bootstrap_mean
from ibot.models.backbone import BackboneModule
from ibot.models.vit import VisionTransformer
from ibot.types import ResultRecord
from ibot.weights.read import load

RATIO = 0.5
"""Information loss at which the table of the paper reads the curves."""
ATTENTION_IMAGES = 32
"""Images at a time where attention is held: [b, heads, 1 + N, 1 + N] is large."""
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
    """A record of the images as they are, and one per curve: the accuracy at half of the patches,
    linear between its points, which `extra` holds.

    Draws and foregrounds belong to an image; in published mode neighbouring images share their
    random draw.

    Raises:
        ConfigError: steps, masses or a head that do not fit, or a curve that does not reach half of
            the patches.
        DataError: see `classifier_for`.
        WeightsError: `settings.saliency` cannot be read.
    """
    if (
        settings.steps < 1
        or not settings.masses
        or not all(0 <= mass <= 1 for mass in settings.masses)
    ):
        raise ConfigError(
            "occlusion needs steps of at least 1 and masses between 0 and 1",
            fix="for example steps=10 masses=0,0.5,1",
        )
    classifier = classifier_for(context)
    notes = head_notes(context, classifier)
    context = published_view(context)
    saliency = _saliency(context, settings, classifier, notes)
    drops = _random_drops(context, settings, _grid(context, classifier.backbone))
    drops += _attended_drops(settings) if saliency is not None else []
    found = score_images(
        context, context.val, _Scorer(context, settings, classifier, saliency, drops), "occlusion"
    )
    notes += unreadable(found)
    if context.mode == "published":
        notes.append("neighbouring images share a random choice, as in the published runs")
    if context.mode == "published" and not settings.saliency:
        notes.append(
            "the evaluated network decides what is salient; published: saliency=DINO_VIT_S16 head=1"
        )
    used = {**plain(settings), **head_settings(classifier)}
    curves = [curve for curve in NAMES if any(drop.curve == curve for drop in drops)]
    hits = found.rows[:, 0, 0].bool()  # the random curve begins with no patches
    whole = context.accuracy(
        "occlusion", hits, found.labels, used, row="no patches dropped", notes=notes
    )
    return [whole, *(_record(context, used, drops, found, curve, notes) for curve in curves)]


def _saliency(
    context: LabelledContext,
    settings: OcclusionSettings,
    classifier: LinearClassifier,
    notes: list[str],
) -> VisionTransformer | None:
    """The network whose attention decides; None, with a note, where there is no class attention."""
    network: BackboneModule = classifier.backbone
    if settings.saliency:
        network = load(settings.saliency).backbone.to(context.device)
    if not isinstance(network, VisionTransformer):
        notes.append(
            "a Swin has no class token that attends: patches are dropped at random only; "
            "saliency=WEIGHTS "
            "names a ViT whose attention decides"
        )
        return None
    heads = len(
        _class_attention(network, torch.zeros(1, 3, *context.view.size, device=context.device))[0]
    )
    if not -1 <= settings.head < heads:
        raise ConfigError(
            f"head={settings.head}, but the network has {heads} heads", fix=f"-1 to {heads - 1}"
        )
    return network


def _grid(context: LabelledContext, backbone: BackboneModule) -> tuple[int, int]:
    """Whole patches of the view."""
    height, width = context.view.size
    return height // backbone.patch_size, width // backbone.patch_size


@torch.no_grad()
def _class_attention(network: VisionTransformer, images: Tensor) -> Tensor:
    """Attention of the class token to the patches in the last block: [b, heads, N]."""
    rows, columns = network.token_grid(*images.shape[-2:])
    return network.attention_maps(images)[:, :, 0, 1 : 1 + rows * columns]


def _random_drops(
    context: LabelledContext, settings: OcclusionSettings, grid: tuple[int, int]
) -> list[Drop]:
    patches = grid[0] * grid[1]

    def drop(count: int) -> Drop:
        return Drop(
            "R",
            count / patches,
            lambda index, _: random_patches(
                draw_number(context, index), patches, count, context.seed
            ),
        )

    return [drop(count) for count in dict.fromkeys(drop_counts(patches, settings.steps))]


def _attended_drops(settings: OcclusionSettings) -> list[Drop]:
    def foreground(attention: Tensor | None, mass: float) -> Tensor:
        assert attention is not None
        return salient_patches(attention, mass)

    def drop(mass: float, inverse: bool) -> Drop:
        name = "NS" if inverse else "S"
        return Drop(name, mass, lambda _, attention: foreground(attention, mass) ^ inverse)

    return [drop(mass, inverse) for inverse in (False, True) for mass in settings.masses]


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Hit and share of dropped patches for each point: float32 [b, P, 2]. Attention is computed
    once per image.
    """

    context: LabelledContext
    settings: OcclusionSettings
    classifier: LinearClassifier
    saliency: VisionTransformer | None
    drops: list[Drop]

    def __call__(self, images: Tensor, index: NDArray[np.int64]) -> Tensor:
        labels = torch.from_numpy(self.context.val.labels[index].astype(np.int64)).to(images.device)
        attention = self._attention(images)
        points = []
        for drop in self.drops:
            network = (
                self.classifier.backbone
                if drop.curve == "R" or self.saliency is None
                else self.saliency
            )
            dropped = drop.dropped(index, attention).to(images.device)
            changed = drop_patches(
                images, dropped, _grid(self.context, network), network.patch_size
            )
            hits = self.classifier.logits(changed).argmax(dim=1) == labels
            points.append(torch.stack([hits.float(), dropped.float().mean(dim=1)], dim=1))
        return torch.stack(points, dim=1)

    def _attention(self, images: Tensor) -> Tensor | None:
        if self.saliency is None:
            return None
        own, wanted = self.classifier.backbone.statistics, self.saliency.statistics
        parts = [renormalize(part, own, wanted) for part in images.split(ATTENTION_IMAGES)]
        maps = torch.cat([_class_attention(self.saliency, part) for part in parts])
        return maps.mean(dim=1) if self.settings.head < 0 else maps[:, self.settings.head]


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
