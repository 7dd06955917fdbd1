"""Groups of copies in which every image fits every other: no chains.

A chain joins a butterfly to a helicopter to a ketch because each is a little like the next one.
Here the strongest pairs are joined first, and two groups only where all their pairs fit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST = 64
"""Pairs between two groups that are compared: of larger ones evenly chosen. Hundreds of copies of
one placeholder would take hours otherwise."""

Fits = Callable[[Tensor, Tensor], Tensor]
"""Images int64 [p] and [p] -> bool [p]: whether the two may be in one group."""


def complete_groups(first: Tensor, second: Tensor, strength: Tensor, fits: Fits) -> list[list[int]]:
    """Images joined by pairs, the strongest first, where all of both groups fit each other.

    Args:
        first: int64 [p], one image of each pair.
        second: int64 [p], the other.
        strength: [p]; of equal ones the first comes first.
        fits: asked for the other pairs between groups, at most `MOST` of them.

    Returns:
        Groups of two or more, each rising; the largest first, then by their first image.
    """
    groups: dict[int, list[int]] = {}
    group_of: dict[int, int] = {}
    apart: set[tuple[int, int]] = set()
    for pair in strength.argsort(descending=True, stable=True).tolist():
        ends = int(first[pair]), int(second[pair])
        one, other = (group_of.setdefault(image, image) for image in ends)
        if one == other or (min(one, other), max(one, other)) in apart:
            continue
        members = [groups.get(root, [root]) for root in (one, other)]
        if not _all_fit(members[0], members[1], fits):
            apart.add((min(one, other), max(one, other)))
            continue
        if len(members[0]) < len(members[1]):
            one, other, members = other, one, members[::-1]
        groups[one] = members[0] + members[1]
        groups.pop(other, None)
        group_of.update(dict.fromkeys(members[1], one))
    found = [sorted(group) for group in groups.values()]
    return sorted(found, key=lambda group: (-len(group), group[0]))


def _all_fit(one: list[int], other: list[int], fits: Fits) -> bool:
    """Whether two groups may be one. Single images may: their pair was found."""
    if len(one) == len(other) == 1:
        return True
    first, second = torch.cartesian_prod(torch.tensor(one), torch.tensor(other)).T
    chosen = evenly(len(first))
    return bool(fits(first[chosen], second[chosen]).all())


def pairs_within(group: list[int]) -> tuple[Tensor, Tensor]:
    """Pairs of a group, at most `MOST` of them, evenly chosen: int64 [p] and [p]."""
    low, high = torch.combinations(torch.tensor(group), 2).T
    chosen = evenly(len(low))
    return low[chosen], high[chosen]


def evenly(count: int) -> Tensor:
    """At most `MOST` of `count` numbers, evenly spaced, int64."""
    return torch.linspace(0, count - 1, min(count, MOST)).round().long()
