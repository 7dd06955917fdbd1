"""Unsupervised classification (paper table 5; spec_evaluation 8.6)."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from ibot.errors import ConfigError, WeightsError
from ibot.eval.context import plain
from ibot.eval.features.rows import unreadable
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.labelled import LabelledContext
from ibot.eval.probes.cluster_scores import clustering_scores, kmeans_clusters
from ibot.eval.probes.settings import ClusterSettings
from ibot.eval.scores import interval, resamples
from ibot.models.head import ProjectionHead
from ibot.types import ResultRecord
from ibot.weights.head import projection_head
from ibot.weights.read import load_weights

CHUNK = 4096
RESAMPLES = 100


def run(context: LabelledContext, settings: ClusterSettings) -> list[ResultRecord]:
    """Five records: accuracy after the best one-to-one map, majority accuracy, NMI, ARI, FMI.

    Raises ConfigError for k < 0, and WeightsError when prototypes are asked for and the file has no
    projection head.
    """
    if settings.k < 0:
        raise ConfigError(f"k={settings.k} clusters: give 0 for the number of classes, or more")
    val = context.features(context.val, "val")[CLASS_TOKEN]
    count = settings.k or context.num_classes
    if count > len(val.rows):
        raise ConfigError(
            f"{len(val.rows)} validation images cannot make {count} clusters", fix="a smaller k"
        )
    logits = prototype_logits(_head(context), val.rows)
    by = settings.by
    if by == "auto":
        by = "prototypes" if logits.shape[1] == context.num_classes else "kmeans"
    if by == "kmeans":
        clusters = kmeans_clusters(val.unit(), count, context.seed)
    elif logits.shape[1]:
        clusters = logits.argmax(dim=1)
    else:
        raise WeightsError(
            f"'{context.weights}' holds no projection head",
            why="its prototypes are the clusters",
            fix="give a run or a full checkpoint, or by=kmeans",
        )
    labels, clusters = val.labels.cpu(), clusters.cpu()
    scores = asdict(clustering_scores(labels, clusters))
    num_clusters = scores.pop("num_clusters")
    intervals = score_intervals(labels, clusters, scores, context.seed)
    notes = [*unreadable(val), f"{num_clusters} non-empty clusters by {by}"]
    if by == "prototypes" and logits.shape[1] != context.num_classes:
        notes.append(
            f"{logits.shape[1]} prototypes for {context.num_classes} classes: unmatched ones "
            "count as wrong"
        )
    return [
        context.record(
            "cluster",
            f"cluster_{name}",
            scores[name],
            {**plain(settings), "by": by},
            interval=intervals[name],
            num_val=len(labels),
            row=name,
            num_clusters=num_clusters,
            notes=notes,
        )
        for name in ("acc", "majority", "nmi", "ari", "fmi")
    ]


def _head(context: LabelledContext) -> ProjectionHead | None:
    """That of the weights; what stands in their place has none."""
    if context.baseline:
        return None
    weights, width = load_weights(context.weights, context.key), context.loaded.backbone.embed_dim
    return projection_head(weights, width, context.key)


def prototype_logits(head: ProjectionHead | None, tokens: Tensor) -> Tensor:
    """Class logits [n, K] of class tokens [n, D]: no centering, no temperature. No head: K = 0."""
    if head is None:
        return tokens.new_zeros(len(tokens), 0)
    parts = []
    with torch.no_grad():
        for part in tokens.split(CHUNK):
            z = head.project(part)
            parts.append(head.logits(z, z[:0])[0])
    return torch.cat(parts)


def score_intervals(
    labels: Tensor, clusters: Tensor, scores: dict[str, float], seed: int
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals around `scores`; all of them share the resamples.

    Resamples repeat images, which raises all of these scores; their mean excess is taken off.
    """
    drawn = [torch.from_numpy(rows) for rows in resamples(len(labels), RESAMPLES, seed)]
    found = [asdict(clustering_scores(labels[rows], clusters[rows])) for rows in drawn]
    around = {
        name: interval([score[name] for score in found], around=value)
        for name, value in scores.items()
    }
    lowest = {"ari": -100.0}  # the others are shares
    return {
        name: (max(low, lowest.get(name, 0.0)), min(high, 100.0))
        for name, (low, high) in around.items()
    }
