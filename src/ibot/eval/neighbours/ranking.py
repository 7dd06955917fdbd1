"""Scores of rankings, and the rankings of a database by queries (spec_evaluation 8.13, 8.14).

Ranks count from 0. Images that count neither as right nor as wrong (junk) are taken out of a
ranking: each right answer moves up by those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.eval.neighbours.nearest import BLOCK, nearest, unit_rows
from ibot.system.processes import Processes
from ibot.system.progress import Progress

MOST_SIMILARITIES, MOST_QUERIES = 2**24, 256
"""Similarities, and queries, that are sorted at a time."""

Ranks = NDArray[np.int64]
"""int64 [m], rising."""


def without_junk(right: NDArray[np.int64], junk: NDArray[np.int64]) -> Ranks:
    """Ranks of right answers [m], any order, in the ranking without the junk [j]: sorted."""
    right, junk = np.sort(right), np.sort(junk)
    return right - np.searchsorted(junk, right)


def average_precision(ranks: Ranks, num_right: int) -> float:
    """Area under precision over recall by trapezoids, 0..1, as published.

    `ranks` are those of the answers found among `num_right`; what was not found adds nothing.
    """
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    after = (found + 1) / (ranks + 1)
    return float((before + after).sum() / 2 / num_right)


def precision_at(ranks: Ranks, k: int) -> float:
    """Share of right ones among the first k, or as far as the last right one: 0..1, as published.

    `ranks` are those of all right answers, at least one.
    """
    depth = min(int(ranks[-1]) + 1, k)
    return float((ranks < depth).sum() / depth)


def recall_at(ranks: Ranks, k: int) -> float:
    """1 where a right answer is among the first k, else 0: its mean is called recall at k."""
    return float(ranks[0] < k)


def rankings(
    queries: Tensor,
    bank: Sequence[Tensor],
    *,
    device: torch.device,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For queries of this process their number and the whole bank, most similar first.

    Similar is what has a large inner product; equal ones come in the order of the bank. Of a bank
    of n rows no more than some `MOST_SIMILARITIES`, or n, are compared at a time.

    Args:
        queries: [q, D].
        bank: rows [n_i, D] of several sets; they may be mapped from files, and are read in blocks.
        device: where to compute.
        processes: those that share the queries, in pieces that do not depend on their number.
        progress: called with queries done and in all.

    Yields:
        A number below q, and int64 [n], each number below n once.
    """
    count = sum(map(len, bank))
    size = min(max(1, MOST_SIMILARITIES // count), MOST_QUERIES)
    starts = range(0, len(queries), size)[processes.rank :: processes.world_size]
    for done, start in enumerate(starts):
        asked = unit_rows(queries[start : start + size].to(device, torch.float32))
        order = similarities(asked, bank).sort(dim=1, descending=True, stable=True).indices
        for row, ranking in enumerate(order.cpu().numpy()):
            yield start + row, ranking
        if progress is not None:
            progress(done + 1, len(starts))


def similarities(queries: Tensor, bank: Sequence[Tensor]) -> Tensor:
    """Cosines [q, n] of rows [q, D] of length 1 with those of all parts of a bank."""
    found = queries.new_empty(len(queries), sum(map(len, bank)))
    at = 0
    for part in bank:
        for start in range(0, len(part), BLOCK):
            rows = unit_rows(part[start : start + BLOCK].to(queries.device, torch.float32))
            torch.mm(queries, rows.T, out=found[:, at : at + len(rows)])
            at += len(rows)
    return found


def first_answers(
    queries: Tensor, bank: Sequence[Tensor], k: int, device: torch.device
) -> NDArray[np.int64]:
    """The k most similar rows of a bank for each query, most similar first: int64 [q, k].

    As `rankings` begin, but nothing is sorted that is not among them; k is cut to n.
    """
    asked = queries.to(device, torch.float32)
    values, places, at = [], [], 0
    for part in bank:
        found, place = nearest(part, asked, k, scale=True)
        values.append(found)
        places.append(place + at)
        at += len(part)
    order = torch.cat(values, dim=1).sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.cat(places, dim=1).gather(1, order).cpu().numpy()
