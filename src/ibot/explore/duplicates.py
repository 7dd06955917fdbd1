"""Near-duplicates among images, by their features; exact, in blocks, as all of this package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ibot.eval.neighbours.nearest import Progress
from ibot.explore.resemblance import check_rows


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Near-duplicates of their first image, which leads them."""

    index: Tensor
    """int64 [m], m >= 2, rising; the leader is the first."""
    similarity: Tensor
    """Cosine to the leader [m], the threshold or above; that of the leader is 1."""


def near_duplicates(
    features: Tensor,
    threshold: float,
    *,
    scale: bool = False,
    block: int = 2048,
    progress: Progress | None = None,
) -> list[DuplicateGroup]:
    """Groups of images whose cosine to the first of the group is at least `threshold`.

    The images are gone through in order: each joins the earliest leader that is similar enough, or
    else leads those that come after it. So no two leaders are near-duplicates of each other, while
    two that follow one leader may be less similar to each other than the threshold. `block` x
    `block` pairs exist at a time.

    Args:
        features: [n, D], rows of length 1, float32 or float64; any device.
        threshold: -1..1. Rounding makes 1 miss some exact copies; 0.9999 finds them all.
        scale: take rows of any length and bring them to length 1 on the way.
        block: features at a time.
        progress: called with the pairs compared and in all.

    Returns:
        Groups, the largest first, equally large ones by their first image. Images without a
        near-duplicate are in none.

    Raises:
        ValueError: shapes or types that do not fit, rows that are not of length 1 or cannot be
            brought to it, or a threshold that is no cosine.
    """
    check_rows(features, scale)
    if not -1 <= threshold <= 1:
        raise ValueError(f"a threshold of cosines lies in -1..1, not at {threshold}")
    found = _Duplicates.of(features, threshold, scale)
    leaders = [found.leader[:0]]  # those of each block
    for image in torch.arange(len(features), device=features.device).split(block):
        alone = image
        for before in torch.cat(leaders).split(block):
            alone = found.follow(alone, before)
        leaders.append(found.lead(alone))
        if progress is not None:
            done = int(image[-1]) + 1
            progress(done * done, len(features) ** 2)
    return found.groups()


@dataclass(frozen=True, slots=True)
class _Duplicates:
    """Groups of near-duplicates while they are sought: who follows whom."""

    features: Tensor
    """[n, D]."""
    scale: bool
    """Whether to bring them to length 1."""
    least: float
    """The smallest cosine of their type that is not below the threshold."""
    leader: Tensor
    """int64 [n]: whom each image follows, itself at first."""
    similarity: Tensor
    """Cosine [n] to the leader."""

    @classmethod
    def of(cls, features: Tensor, threshold: float, scale: bool) -> _Duplicates:
        """Nobody follows anybody."""
        leader = torch.arange(len(features), device=features.device)
        least = _at_least(threshold, features.dtype)
        return cls(features, scale, least, leader, features.new_ones(len(features)))

    def rows(self, image: Tensor) -> Tensor:
        """Features [b, D], of length 1, of images int64 [b]."""
        rows = self.features[image]
        return F.normalize(rows, dim=1) if self.scale else rows

    def follow(self, image: Tensor, leaders: Tensor) -> Tensor:
        """Let images [b] follow the first of the leaders [c] that is near; those left without."""
        if not len(image) or not len(leaders):
            return image
        cosine = self.rows(image) @ self.rows(leaders).T
        first = (cosine >= self.least).to(torch.uint8).argmax(dim=1)  # 0 where there is none
        value = cosine.gather(1, first[:, None])[:, 0]
        follows = value >= self.least
        self.leader[image[follows]] = leaders[first[follows]]
        self.similarity[image[follows]] = value[follows]
        return image[~follows]

    def lead(self, image: Tensor) -> Tensor:
        """Let images [b] that follow none before them lead each other, in order.

        Returns those that lead, or might.
        """
        rows = self.rows(image)
        cosine = rows @ rows.T
        near = np.triu((cosine >= self.least).cpu().numpy(), 1)
        own = np.arange(len(near))
        place = own.copy()
        for row in np.flatnonzero(near.any(axis=1)):
            if place[row] == row:
                place[near[row] & (place == own)] = row
        chosen = torch.from_numpy(place).to(image)
        follows = chosen != torch.arange(len(image), device=image.device)
        self.leader[image[follows]] = image[chosen[follows]]
        self.similarity[image[follows]] = cosine[chosen[follows], follows.nonzero()[:, 0]]
        return image[~follows]

    def groups(self) -> list[DuplicateGroup]:
        """Groups of two or more, the largest first."""
        size = torch.bincount(self.leader, minlength=len(self.leader))
        member = (size[self.leader] > 1).nonzero()[:, 0]
        member = member[self.leader[member].argsort(stable=True)]
        groups = member.split(size[size > 1].tolist())
        found = [DuplicateGroup(index, self.similarity[index]) for index in groups]
        return sorted(found, key=lambda group: -len(group.index))


def _at_least(threshold: float, dtype: torch.dtype) -> float:
    """The smallest number of a type that is not below a threshold.

    Rounding to the type alone may be below it.
    """
    rounded = torch.tensor(threshold, dtype=dtype)
    if rounded.item() < threshold:
        rounded = rounded.nextafter(torch.tensor(torch.inf).to(rounded))
    return rounded.item()
