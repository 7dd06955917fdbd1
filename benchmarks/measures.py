"""What a network knows of images and of their patches, in numbers: for the study of what it learns.

Features are those of the teacher after the final norm, images not augmented. `measure` needs a
minute for a small network on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.learned_words import agreement
from ibot.data.annotated.label_maps import open_label_maps, with_counted_classes
from ibot.data.sets.images import LabelledImages
from ibot.data.sets.open import find_labelled
from ibot.errors import DataError
from ibot.eval.features.spectrum import effective_rank
from ibot.eval.features.tokens import Features, evaluating, extract_features
from ibot.eval.features.views import evenly
from ibot.eval.label_scores import LabelScores
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.eval.probes.dense_knn import DenseKnn
from ibot.eval.probes.logistic_fit import fit_logistic
from ibot.eval.probes.match import RADII, MatchPlan, match
from ibot.eval.probes.patch_tokens import encoder
from ibot.eval.probes.settings import DenseKnnSettings
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead

BANK, VAL, PAIRS = 10_000, 5_000, 512
JOINED_VAL = 2_000
"""Images judged by all of their patches, joined: thousands of numbers each."""
PENALTY = 1e-2
"""Of the linear probes, for features of which each has deviation 1."""
DENSE_BANK, DENSE_SIDE = 20_000, 4
"""Labelled patches; and the shorter side of what is segmented, in views of the training."""


@dataclass(frozen=True, slots=True)
class Sets:
    """Images to learn from and to be judged on, and label maps where there are some."""

    train: LabelledImages
    val: LabelledImages
    label_maps: str = ""

    @classmethod
    def of(cls, data: str, label_maps: str = "") -> Sets:
        """What a folder holds. Raises DataError without labels."""
        sets = find_labelled(data)
        if sets is None:
            raise DataError(f"no labelled images under '{data}'")
        return cls(*sets, label_maps)


def measure(
    backbone: Backbone,
    head: ProjectionHead | None,
    sets: Sets,
    size: int,
) -> dict[str, float]:
    """Everything, in per cent but for the ranks and entropies.

    size: pixels of a side of the views.
    """
    with evaluating(backbone):
        return {
            **of_images(backbone, sets, size),
            **of_places(backbone, head, sets.val, size),
            **of_label_maps(backbone, sets.label_maps, size),
        }


def of_images(backbone: Backbone, sets: Sets, size: int) -> dict[str, float]:
    """k-NN and linear probe of the class token and of the mean patch, k-NN of joined patches."""
    bank = _features(backbone, sets.train, BANK, size)
    val = _features(backbone, sets.val, VAL, size)
    found: dict[str, float] = {}
    for name in ("cls", "mean"):
        rows, queries = _of(bank, name), _of(val, name)
        found[f"knn_{name}"] = _knn(rows, bank, queries, val)
        found[f"linear_{name}"] = _linear(rows, bank, queries, val)
        found[f"rank_{name}"] = effective_rank(queries)
    few = torch.from_numpy(evenly(len(val.names), JOINED_VAL))
    found["knn_joined"] = _knn(
        _of(bank, "joined"), bank, _of(val, "joined")[few], val, of_queries=few
    )
    patches = _patches(val)[few[::4]]
    found["rank_patches"] = effective_rank(patches.flatten(0, 1))
    # How much of what patches hold differs within an image: 100 where all images have equal means.
    inside = (patches - patches.mean(dim=1, keepdim=True)).square().sum()
    whole = (patches - patches.mean(dim=(0, 1))).square().sum()
    found["within_images"] = 100 * (inside / whole).item()
    return found


def of_places(
    backbone: Backbone,
    head: ProjectionHead | None,
    images: LabelledImages,
    size: int,
) -> dict[str, float]:
    """Patches found again in another view; and words of the head there, where there is a head."""
    chosen = evenly(len(images), PAIRS)
    plan = MatchPlan.of(backbone, (size, size), seed=0, batch=64)
    matched = match(encoder(backbone, "network"), images, chosen, plan)
    found = {
        f"match_r{radius}": matched.found[:, i].mean().item() for i, radius in enumerate(RADII)
    }
    if head is not None:
        found |= agreement(backbone, head, images, chosen, plan)
    return found


def of_label_maps(backbone: Backbone, folder: str, size: int) -> dict[str, float]:
    """MIoU of label maps by the nearest labelled patches."""
    if not folder:
        return {}
    train, val = with_counted_classes(*open_label_maps(folder))
    settings = DenseKnnSettings(bank=DENSE_BANK)
    method = DenseKnn.of(backbone, DENSE_SIDE * size, settings)
    segmented = method.segment(method.remember(train), val)
    return {"dense_miou": LabelScores.of(segmented.areas.sum(dim=0)).miou}


def _features(backbone: Backbone, images: LabelledImages, most: int, size: int) -> Features:
    chosen = evenly(len(images), most).tolist()
    return extract_features(backbone, images, size=size, indices=chosen, patches=True, device="cpu")


def _patches(features: Features) -> Tensor:
    assert features.patches is not None
    return features.patches


def _of(features: Features, name: str) -> Tensor:
    """Class tokens, mean patches, or patches one after the other: [n, d]."""
    if name == "cls":
        return features.cls
    patches = _patches(features)
    return patches.mean(dim=1) if name == "mean" else patches.flatten(1)


def _labels(features: Features) -> Tensor:
    assert features.labels is not None
    return features.labels


def _knn(
    rows: Tensor, bank: Features, queries: Tensor, val: Features, of_queries: Tensor | None = None
) -> float:
    labels = _labels(val) if of_queries is None else _labels(val)[of_queries]
    (score,) = knn_accuracy(rows, _labels(bank), queries, labels, ks=20).values()
    return score.top1


def _linear(rows: Tensor, bank: Features, queries: Tensor, val: Features) -> float:
    """Accuracy of a logistic regression on standardised features."""
    mean, deviation = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
    scaled, asked = (
        F.pad((part - mean) / deviation, (0, 1), value=1.0) for part in (rows, queries)
    )
    labels = _labels(bank)
    weights = fit_logistic(scaled, labels, int(labels.max()) + 1, PENALTY, tolerance=1e-3)
    hits = (asked.double() @ weights.T).argmax(dim=1) == _labels(val)
    return 100 * hits.double().mean().item()
