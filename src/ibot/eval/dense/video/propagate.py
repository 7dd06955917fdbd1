"""Soft masks of a frame from those of earlier frames, by the likeness of tokens.

Affinity of a query token q and a source token s (spec_evaluation 8.12, steps 5 and 6): the
exponential of their cosine over the temperature, 0 where s lies outside of the window around q's
place; the `topk` largest of all source frames together stay and are divided by their sum.

`propagate` computes affinities for a tile of queries at a time, to the sources in the windows of
that tile; `propagate_plainly` is the same with the full affinity matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = (8, 8)
"""Rows and columns of queries that are computed together: larger ones look at more sources that
are in the windows of some of them only, smaller ones multiply smaller matrices."""


@dataclass(frozen=True, slots=True)
class Source:
    """A frame whose masks are known."""

    tokens: Tensor
    """float [h, w, D], of length 1."""
    soft: Tensor
    """float [h, w, C], a share for each object and the background."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which sources count for a query, and how much."""

    radius: int = 12
    """Tokens of the window in each direction; 0: the whole frame."""
    topk: int = 5
    temperature: float = 0.1

    def inside(self, queries: Tensor, sources: Tensor) -> Tensor:
        """Whether sources are in the windows of queries, along one axis: bool [q, s]."""
        distance = (queries[:, None] - sources).abs()
        return distance <= self.radius if self.radius else distance >= 0

    def span(self, start: int, stop: int, length: int) -> range:
        """All that is in the windows of the places `start` to `stop` along an axis."""
        if not self.radius:
            return range(length)
        return range(max(0, start - self.radius), min(length, stop + self.radius))


def propagate(tokens: Tensor, sources: Sequence[Source], rule: Rule) -> Tensor:
    """Soft map [h, w, C] of a frame with `tokens` [h, w, D] of length 1.

    Beside the sources it takes the memory of the affinities of one tile.
    """
    height, width = tokens.shape[:2]
    soft = tokens.new_empty(height, width, sources[0].soft.shape[-1])
    for rows, columns in _tiles(height, width):
        near_rows = rule.span(rows.start, rows.stop, height)
        near_columns = rule.span(columns.start, columns.stop, width)
        here = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        near = slice(near_rows.start, near_rows.stop), slice(near_columns.start, near_columns.stop)
        inside_rows = rule.inside(_places(rows, tokens), _places(near_rows, tokens))
        inside_columns = rule.inside(_places(columns, tokens), _places(near_columns, tokens))
        # [q rows, 1, s rows, 1] and [1, q columns, 1, s columns].
        inside = inside_rows[:, None, :, None] & inside_columns[None, :, None, :]
        window = inside.reshape(len(rows) * len(columns), -1)
        likeness = torch.cat(
            [tokens[here].flatten(0, 1) @ one.tokens[near].flatten(0, 1).T for one in sources],
            dim=1,
        )
        known = torch.cat([one.soft[near].flatten(0, 1) for one in sources])
        found = _mixed(likeness, window.repeat(1, len(sources)), known, rule)
        soft[here] = found.unflatten(0, (len(rows), len(columns)))
    return soft


def propagate_plainly(tokens: Tensor, sources: Sequence[Source], rule: Rule) -> Tensor:
    """As `propagate`, with the affinities of all tokens to all of all sources in memory."""
    height, width = tokens.shape[:2]
    rows = rule.inside(*2 * [torch.arange(height, device=tokens.device)])
    columns = rule.inside(*2 * [torch.arange(width, device=tokens.device)])
    window = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(height * width, -1)
    likeness = torch.cat(
        [tokens.flatten(0, 1) @ one.tokens.flatten(0, 1).T for one in sources], dim=1
    )
    known = torch.cat([one.soft.flatten(0, 1) for one in sources])
    found = _mixed(likeness, window.repeat(1, len(sources)), known, rule)
    return found.unflatten(0, (height, width))


def _mixed(likeness: Tensor, window: Tensor, known: Tensor, rule: Rule) -> Tensor:
    """Soft masks [q, C] of queries.

    Of cosines [q, s] with the sources, whether these count, and the soft masks [s, C] of those.
    """
    affinity = likeness.div_(rule.temperature).exp_().mul_(window)
    kept = min(rule.topk, affinity.shape[1])
    least = affinity.topk(kept, dim=1).values[:, -1:]
    affinity.mul_(affinity >= least)  # what equals the last one stays
    return affinity @ known / affinity.sum(dim=1, keepdim=True)


def _tiles(height: int, width: int) -> Iterator[tuple[range, range]]:
    for top in range(0, height, TILE[0]):
        for left in range(0, width, TILE[1]):
            yield (
                range(top, min(height, top + TILE[0])),
                range(left, min(width, left + TILE[1])),
            )


def _places(places: range, like: Tensor) -> Tensor:
    return torch.arange(places.start, places.stop, device=like.device)
