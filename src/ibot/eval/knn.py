"""Weighted k-nearest-neighbour classification on frozen features (paper section 4.1, spec_evaluation 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PUBLISHED_KS = (10, 20, 100, 200)
BLOCK = 16384
"""Training features compared at a time; with 1024 queries 64 MiB of similarities."""
GROUPS_PER_K, MAX_GROUP = 8, 64
"""Groups per neighbour sought, and the largest group, of the selection in `largest`."""


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
    chunk: int = 1024,
    block: int = BLOCK,
) -> dict[int, KnnScore]:
    """Accuracy of a vote of the k most similar training features, weighted by exp(similarity / temperature).

    One exact search with the largest k serves all. Similarities exist for `chunk` x `block` pairs at a time, so memory
    does not grow with the bank.

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
    for start in range(0, len(test), chunk):
        queries = test[start : start + chunk]
        queries = F.normalize(queries, dim=-1) if scale else queries
        similarity, index = nearest(train, queries, max(clipped), block, scale)
        weight, voted = (similarity / temperature).exp(), train_labels[index]
        truth = test_labels[start : start + chunk, None]
        for k in clipped:
            votes = weight.new_zeros(len(weight), num_classes).scatter_add_(1, voted[:, :k], weight[:, :k])
            hits[k].append(votes.topk(min(5, num_classes), dim=1).indices == truth)
    return {k: _score(torch.cat(rows), test_labels, num_classes) for k, rows in hits.items()}


def nearest(bank: Tensor, queries: Tensor, k: int, block: int = BLOCK, scale: bool = False) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query [q, D] with the bank [n, D]: values and indices [q, k], falling.

    Exact. The best of the blocks seen so far compete with those of the next one. With `scale` the rows of the bank are
    brought to length 1 block by block.
    """
    best = queries.new_full((len(queries), 0), 0.0)
    best_index = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    # One buffer for all blocks: fresh memory of this size costs more than the selection.
    buffer = queries.new_empty(len(queries), min(block, len(bank)))
    for start in range(0, len(bank), block):
        part = bank[start : start + block].to(queries.device)
        part = F.normalize(part, dim=-1) if scale else part
        products = torch.mm(queries, part.T, out=buffer if len(part) == buffer.shape[1] else None)
        values, index = largest(products, k)
        values, index = torch.cat([best, values], 1), torch.cat([best_index, index + start], 1)
        best, order = values.topk(min(k, values.shape[1]), dim=1)
        best_index = index.gather(1, order)
    return best, best_index


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`values.topk(k)` of rows [q, n], cut to n: values and indices [q, k], falling; faster for k far below n.

    The k largest lie in the k groups with the largest maxima, and a maximum costs less than a selection. A group takes
    every (n / size)-th value, so that maxima are found along contiguous memory.
    """
    rows, count = values.shape
    size = count // (GROUPS_PER_K * k)
    if size < 2:
        return values.topk(min(k, count), dim=1)
    size = min(size, MAX_GROUP)
    groups = count // size
    grouped = values[:, : size * groups].unflatten(1, (size, groups))
    chosen = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    members = (chosen[:, None] + groups * torch.arange(size, device=values.device)[:, None]).flatten(1)
    rest = torch.arange(size * groups, count, device=values.device).expand(rows, -1)
    members = torch.cat([members, rest], dim=1)
    found, place = values.gather(1, members).topk(k, dim=1)
    return found, members.gather(1, place)


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
