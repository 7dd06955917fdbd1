"""Unsupervised classification: clusters scored against classes (table 5, evaluation 8.6).

The clusters are the argmax of a head with as many outputs as classes, as published, or k-means of
frozen features for models with a large head.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.errors import MissingExtra

FULL_KMEANS_MAX = 100_000
"""Features above which k-means goes over random batches: a pass over all costs n * k * D."""

NUM_STARTS = 3
"""Starting points of k-means, of which the best counts."""


@dataclass(frozen=True, slots=True)
class ClusterScore:
    """Agreement of clusters with classes, in per cent."""

    acc: float
    """Accuracy after the best one-to-one map of clusters to classes; clusters without a class
    count as wrong."""
    majority: float
    """Accuracy with each cluster mapped to its commonest class. Never below `acc`, and 100 for
    clusters of one."""
    nmi: float
    """Mutual information over the arithmetic mean of the entropies."""
    ari: float
    """Rand index adjusted for chance: 0 for random clusters, may be negative."""
    fmi: float
    """Fowlkes-Mallows index: geometric mean of precision and recall over pairs of samples."""
    num_clusters: int
    """Clusters that hold a sample, a count."""


def clustering_scores(labels: Tensor, clusters: Tensor) -> ClusterScore:
    """Compare cluster ids with true classes; there may be more or fewer clusters than classes.

    Args:
        labels: int64 [n], the classes.
        clusters: int64 [n]; the ids mean nothing and may have gaps.

    Returns:
        The scores. All but `majority` are symmetric in labels and clusters, and `num_clusters` is
        that of `clusters`.

    Raises:
        ValueError: no samples, or shapes that differ.
        MissingExtra: scikit-learn or scipy is not installed.
    """
    if labels.ndim != 1 or labels.shape != clusters.shape or not len(labels):
        raise ValueError(
            "labels and clusters are two lists [n] with n > 0, not of shapes "
            f"{tuple(labels.shape)} and {tuple(clusters.shape)}"
        )
    metrics, optimize = _library("sklearn.metrics"), _library("scipy.optimize")
    truth, ids = labels.cpu().numpy(), clusters.cpu().numpy()
    table = contingency(truth, ids)
    matched = optimize.linear_sum_assignment(table, maximize=True)
    return ClusterScore(
        acc=100 * float(table[matched].sum()) / len(truth),
        majority=100 * float(table.max(axis=0).sum()) / len(truth),
        nmi=100 * float(metrics.normalized_mutual_info_score(truth, ids)),
        ari=100 * float(metrics.adjusted_rand_score(truth, ids)),
        fmi=100 * float(metrics.fowlkes_mallows_score(truth, ids)),
        num_clusters=table.shape[1],
    )


def contingency(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Samples [C, K] of each class in each cluster, in the order of the ids that occur."""
    # Ids are counted anew because the published code takes the largest id for the count, which an
    # empty cluster upsets.
    classes, row = np.unique(labels, return_inverse=True)
    groups, column = np.unique(clusters, return_inverse=True)
    cells = np.bincount(row * len(groups) + column, minlength=len(classes) * len(groups))
    return cells.reshape(len(classes), len(groups))


def kmeans_clusters(features: Tensor, k: int, seed: int) -> Tensor:
    """Cluster features by k-means on the CPU, above `FULL_KMEANS_MAX` of them in random batches.

    Args:
        features: [n, D], l2-normalised; any float type and device.
        k: number of clusters, 1..n; usually the number of classes.
        seed: of the starting points and batches.

    Returns:
        Cluster ids 0..k - 1, int64 [n] on the device of the features.

    Raises:
        ValueError: features that are not [n, D], or k outside of 1..n.
        MissingExtra: scikit-learn is not installed.
    """
    if features.ndim != 2 or not 1 <= k <= len(features):
        raise ValueError(f"features of shape {tuple(features.shape)} cannot form {k} clusters")
    # numpy has no bfloat16.
    rows = features.detach().to(torch.promote_types(features.dtype, torch.float32)).cpu().numpy()
    library = _library("sklearn.cluster")
    if len(rows) <= FULL_KMEANS_MAX:
        model = library.KMeans(k, n_init=NUM_STARTS, random_state=seed)
    else:
        # A batch must hold several samples of each cluster, else its means are noise; the default
        # is 1024 for any k.
        batch = max(4096, 4 * k)
        model = library.MiniBatchKMeans(k, n_init=NUM_STARTS, batch_size=batch, random_state=seed)
    return torch.from_numpy(model.fit_predict(rows)).to(features.device, torch.int64)


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(
            "scipy" if name.startswith("scipy") else "scikit-learn", "eval"
        ) from None
