"""Pairs of images that may be copies: where to look for them, and how alike two are.

Candidates are the nearest images by features, and by small gray pictures and their mirror images
(`glimpses`): the first miss copies where the network is weak, the second where much was cropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.eval.neighbours.nearest import Progress, nearest
from ibot.explore.glimpses import agreement, coarse

COARSE_NEIGHBOURS = 5
"""Nearest small pictures, and as many nearest to the mirror image, that are candidates."""
WORTH_COMPARING = 0.7
"""Agreement of a few pixels below which the finer one is not computed: of 1,502 altered copies
none lay below it."""
EXACT = 0.9999
"""The highest threshold in use: rounding takes exact copies below 1."""
BLOCK = 1024
"""Pairs at a time."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of images, each once."""

    first: Tensor
    """int64 [p]."""
    second: Tensor
    """int64 [p], larger than the first."""
    cosine: Tensor
    """float32 [p] of their features."""
    agreement: Tensor
    """float32 [p] of their small pictures; of a few pixels alone where that is little."""

    def where(self, wanted: Tensor) -> Pairs:
        """Those of a mask [p]."""
        parts = self.first, self.second, self.cosine, self.agreement
        return Pairs(*(part[wanted] for part in parts))


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike any two images are, by features and by small pictures."""

    features: Tensor
    """[n, D], of any length above 0."""
    pictures: Tensor
    """int8 [n, SIDE * SIDE]."""
    small: tuple[Tensor, Tensor]
    """Coarser ones [n, d] and their mirror images."""

    @classmethod
    def of(cls, features: Tensor, pictures: Tensor) -> Likeness:
        """Of images with features [n, D] and pictures int8 [n, SIDE * SIDE]."""
        return cls(features, pictures, coarse(pictures))

    def candidates(self, neighbours: Tensor, progress: Progress | None = None) -> Pairs:
        """Pairs that may be copies, measured.

        neighbours: int64 [n, k], nearest others by features. progress: called with pairs.
        """
        plain, mirrored = self.small
        found = [neighbours.cpu()]
        for queries in (plain, mirrored):
            found.append(nearest(plain, queries, COARSE_NEIGHBOURS + 1)[1].cpu())
        return self.measured(*once(torch.cat(found, 1)), progress)

    def measured(self, first: Tensor, second: Tensor, progress: Progress | None = None) -> Pairs:
        """The pairs of images int64 [p] and [p] with what they have in common."""
        parts = []
        for start in range(0, len(first), BLOCK):
            part = slice(start, start + BLOCK)
            parts.append(self._block(first[part], second[part]))
            if progress is not None:
                progress(min(start + BLOCK, len(first)), len(first))
        cosine, agreed = zip(*parts, strict=True) if parts else ((torch.zeros(0),),) * 2
        return Pairs(first, second, torch.cat(cosine), torch.cat(agreed))

    def _block(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and agreement [b]."""
        cosine = cosines(self.features, first, second)
        plain, mirrored = self.small
        agreed = torch.maximum(
            (plain[first] * plain[second]).sum(1), (plain[first] * mirrored[second]).sum(1)
        ).clamp_max(1)
        fine = (agreed >= WORTH_COMPARING).nonzero()[:, 0]
        agreed = agreed.clamp_max(WORTH_COMPARING)
        agreed[fine] = agreement(self.pictures[first[fine]], self.pictures[second[fine]])
        # Pictures of one tone show nothing to compare: they are copies if the network cannot tell
        # them apart.
        plain_tone = ~(self.pictures[first].any(1) | self.pictures[second].any(1))
        agreed[plain_tone & (cosine >= EXACT)] = 1
        return cosine, agreed


def cosines(features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Cosine [p] of features [n, D] of images int64 [p] with those of others, on the CPU."""
    rows = (features[part.to(features.device)] for part in (first, second))
    one, other = (F.normalize(part.float(), dim=1) for part in rows)
    return (one * other).sum(1).cpu()


def once(neighbours: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of images and their neighbours int64 [n, k], each once: the smaller and the larger.

    An image is no neighbour of itself.
    """
    count = len(neighbours)
    own = torch.arange(count)[:, None].expand_as(neighbours)
    low, high = torch.minimum(own, neighbours), torch.maximum(own, neighbours)
    code = torch.unique((low * count + high)[low != high])
    return code // count, code % count
