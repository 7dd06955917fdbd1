"""Weighted k-nearest-neighbour classification on frozen features (paper 4.1, evaluation 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ibot.eval.features.tokens import Features
from ibot.eval.neighbours.nearest import BLOCK, CHUNK, Progress, nearest

PUBLISHED_KS = (10, 20, 100, 200)


@dataclass(frozen=True, slots=True)
class KnnScore:
    """Accuracies in per cent."""

    top1: float
    top5: float | None
    """None with fewer than five classes."""
    balanced: float
    """Mean of the accuracies of the classes."""
    hits: Tensor
    """bool [m], whether the first class of each test image is right."""


def knn_accuracy(
    train: Features | ArrayLike,
    train_labels: ArrayLike | None = None,
    test: Features | ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    *,
    ks: int | Sequence[int] = PUBLISHED_KS,
    temperature: float = 0.07,
    scale: bool = True,
    chunk: int = CHUNK,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> dict[int, KnnScore]:
    """Accuracy of a vote of the k most similar features, weighted by exp(similarity / temperature).

    One exact search with the largest k serves all. Similarities exist for `chunk` x `block` pairs
    at a time, so memory does not grow with the bank; beside them, the neighbours of all test images
    are kept.

    Args:
        train: [n, D], any float type: a tensor, an array, or what `extract_features` returned. May
            be mapped from a file: it is read in blocks, each brought to the device of `test`.
        train_labels: integers [n] from 0 on; by default those of `train`, where it has them.
        test: [m, D], as `train`.
        test_labels: integers [m]; by default those of `test`.
        ks: neighbour counts; those above n become n.
        temperature: T of the vote.
        scale: bring all features to length 1, so that similarities are cosines, as published; rows
            that have it stay as they are. False: similarities are inner products of the rows as
            given.
        chunk: test features at a time.
        block: training features at a time.
        progress: called with the training features compared and in all.

    Returns:
        Score by k, in the order of `ks`, equal ones once.

    Raises:
        ValueError: shapes that do not fit, no features or features that are not finite, no labels
            or labels that are no classes, a k or temperature that is not positive.
    """
    bank, queries = _rows(train, "train"), _rows(test, "test")
    tables = bank.ndim == queries.ndim == 2 and bank.shape[1] == queries.shape[1]
    if not (tables and len(bank) and len(queries)):
        raise ValueError(
            f"features of shapes {tuple(bank.shape)} and {tuple(queries.shape)} cannot be compared"
        )
    known = _labels(train, train_labels, "train", len(bank)).to(queries.device)
    truth = _labels(test, test_labels, "test", len(queries)).to(queries.device)
    counts = [ks] if isinstance(ks, int) else list(ks)
    if not counts or min(counts) < 1 or not temperature > 0:
        raise ValueError(f"ks={counts} and temperature={temperature} must be positive")
    clipped = list(dict.fromkeys(min(k, len(bank)) for k in counts))
    num_classes = int(torch.maximum(known.max(), truth.max())) + 1
    hits: dict[int, list[Tensor]] = {k: [] for k in clipped}
    similarity, index = nearest(
        bank, queries, max(clipped), scale=scale, chunk=chunk, block=block, progress=progress
    )
    if not similarity.isfinite().all():
        raise ValueError("features hold values that are not finite")
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        near, voted = similarity[part], known[index[part]]
        for k in clipped:
            votes = _log_votes(near[:, :k], voted[:, :k], num_classes, temperature)
            hits[k].append(votes.topk(min(5, num_classes), dim=1).indices == truth[part, None])
    return {k: _score(torch.cat(rows), truth, num_classes) for k, rows in hits.items()}


def _rows(features: Features | ArrayLike | None, name: str) -> Tensor:
    """Features as a floating tensor where they lie, without a copy if that is possible."""
    if features is None:
        raise ValueError(
            f"no features to {name}: knn_accuracy(train, train_labels, test, test_labels), "
            "or of two results of extract_features knn_accuracy(bank, test=queries)"
        )
    rows = features.cls if isinstance(features, Features) else _tensor(features)
    return rows if rows.is_floating_point() else rows.float()


def _labels(
    features: Features | ArrayLike | None, labels: ArrayLike | None, name: str, count: int
) -> Tensor:
    """Labels as int64 [count]. Raises ValueError."""
    if isinstance(labels, Features):
        raise ValueError(
            "two sets of features and their own labels: knn_accuracy(bank, test=queries)"
        )
    if labels is None and isinstance(features, Features):
        labels = features.labels
    if labels is None:
        raise ValueError(
            f"no labels to {name}: give {name}_labels=, or features of a folder with a folder per "
            "class"
        )
    classes = _tensor(labels)
    if classes.shape != (count,):
        raise ValueError(f"{count} features to {name} but labels of shape {tuple(classes.shape)}")
    if classes.is_floating_point() or classes.is_complex() or classes.min() < 0:
        raise ValueError(
            f"labels to {name} must be whole numbers from 0 on, not {classes.dtype} "
            f"{classes[:3].tolist()}"
        )
    return classes.long()


def _tensor(values: ArrayLike) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    # torch warns of memory that it must not write to.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _log_votes(similarity: Tensor, voted: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Logarithm of the votes [b, C], less that of the nearest neighbour: similarity [b, k] falls,
    voted int64 [b, k].

    Votes themselves overflow or vanish at low temperatures, and all classes would tie.
    """
    scores = (similarity - similarity[:, :1]) / temperature
    best = scores.new_full((len(scores), num_classes), -torch.inf).scatter_reduce_(
        1, voted, scores, "amax"
    )
    relative = (scores - best.gather(1, voted)).exp()
    return best + torch.zeros_like(best).scatter_add_(1, voted, relative).log()


def _score(hits: Tensor, labels: Tensor, num_classes: int) -> KnnScore:
    first = hits[:, 0].double()
    count = torch.bincount(labels, minlength=num_classes).double()
    right = torch.bincount(labels, weights=first, minlength=num_classes)
    present = count > 0
    return KnnScore(
        top1=100 * first.mean().item(),
        top5=100 * hits.any(dim=1).double().mean().item() if num_classes >= 5 else None,
        balanced=100 * (right[present] / count[present]).mean().item(),
        hits=hits[:, 0],
    )
