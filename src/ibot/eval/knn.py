"""Weighted k-nearest-neighbour classification on frozen features (paper section 4.1, spec_evaluation 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ibot.eval.nearest import BLOCK, CHUNK, Progress, nearest

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
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int] = PUBLISHED_KS,
    temperature: float = 0.07,
    scale: bool = False,
    chunk: int = CHUNK,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> dict[int, KnnScore]:
    """Accuracy of a vote of the k most similar training features, weighted by exp(similarity / temperature).

    One exact search with the largest k serves all. Similarities exist for `chunk` x `block` pairs at a time, so memory
    does not grow with the bank; beside them, the neighbours of all test images are kept.

    Args:
        train: [n, D], l2-normalised (the similarity is the inner product) unless `scale`; any float type. May be mapped
            from a file: it is read in blocks, each brought to the device of `test`.
        train_labels: int64 [n], on the device of `test`.
        test: [m, D].
        test_labels: int64 [m].
        ks: neighbour counts; those above n become n.
        temperature: T of the vote.
        scale: bring all features to length 1 on the way.
        chunk: test features at a time.
        block: training features at a time.
        progress: called with the training features compared and in all.

    Returns:
        Score by k, in the order of `ks`, equal ones once.

    Raises:
        ValueError: shapes that do not fit, or no features.
    """
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or not len(train) or not len(test):
        raise ValueError(f"features of shapes {tuple(train.shape)} and {tuple(test.shape)} cannot be compared")
    if len(train) != len(train_labels) or len(test) != len(test_labels):
        raise ValueError(f"{len(train)}, {len(test)} features but {len(train_labels)}, {len(test_labels)} labels")
    clipped = list(dict.fromkeys(min(k, len(train)) for k in ks))
    num_classes = int(torch.maximum(train_labels.max(), test_labels.max())) + 1
    hits: dict[int, list[Tensor]] = {k: [] for k in clipped}
    similarity, index = nearest(train, test, max(clipped), scale=scale, chunk=chunk, block=block, progress=progress)
    for start in range(0, len(test), chunk):
        part = slice(start, start + chunk)
        near, voted = similarity[part], train_labels[index[part]]
        for k in clipped:
            votes = _log_votes(near[:, :k], voted[:, :k], num_classes, temperature)
            hits[k].append(votes.topk(min(5, num_classes), dim=1).indices == test_labels[part, None])
    return {k: _score(torch.cat(rows), test_labels, num_classes) for k, rows in hits.items()}


def _log_votes(similarity: Tensor, voted: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Logarithm of the votes [b, C], less that of the nearest neighbour: similarity [b, k] falls, voted int64 [b, k].

    Votes themselves overflow or vanish at low temperatures, and all classes would tie.
    """
    scores = (similarity - similarity[:, :1]) / temperature
    best = scores.new_full((len(scores), num_classes), -torch.inf).scatter_reduce_(1, voted, scores, "amax")
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
