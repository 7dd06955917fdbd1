"""Near-duplicates of a searched set, by a threshold that its own images gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.reading import PICTURES
from ibot.data.sets.images import Images
from ibot.data.sets.subsets import SubsetImages
from ibot.eval.context import ImagesContext
from ibot.eval.features.rows import FeatureSet, rows_of
from ibot.eval.features.tokens import CLASS_TOKEN, Feature, compute
from ibot.eval.features.views import evenly
from ibot.explore.altered import KINDS, AlteredImages
from ibot.explore.calibration import LIKE, cosine_from, knows_again, same_from
from ibot.explore.findings import Altered, Duplicates, Evidence, Group
from ibot.explore.glimpses import GLIMPSE, glimpses
from ibot.explore.linking import Fits, complete_groups, pairs_within
from ibot.explore.pairs import EXACT, Likeness, Pairs, cosines, once
from ibot.explore.searched import Searched

SAMPLE = 100
"""Images of which altered copies are made."""


def seen(context: ImagesContext, images: Images, name: str) -> tuple[FeatureSet, FeatureSet]:
    """Class tokens and small pictures (`glimpses`) of all readable images, in one pass."""

    def extract(views: Tensor, wanted: Sequence[Feature | str]) -> dict[Feature | str, Tensor]:
        features = [feature for feature in wanted if isinstance(feature, Feature)]
        found: dict[Feature | str, Tensor] = {}
        if features:
            for feature, rows in compute(context.loaded.backbone, views, features).items():
                found[feature] = rows
        if GLIMPSE in wanted:
            found[GLIMPSE] = glimpses(views)
        return found

    both: Sequence[Feature | str] = (CLASS_TOKEN, GLIMPSE)
    found = context.feature_sets(images, name, both, extract)
    tokens, pictures = found[CLASS_TOKEN], found[GLIMPSE]
    # What the disk refused in one pass it may have given in another.
    common = np.intersect1d(tokens.index, pictures.index)
    return rows_of(tokens, common), rows_of(pictures, common)


def copies_at(
    searched: Searched, rows: Tensor, index: NDArray[np.int64], neighbours: Tensor, least: float
) -> Duplicates:
    """Groups of images whose features all have a cosine of `least` or more."""
    least = min(least, EXACT)
    first, second = once(neighbours)
    cosine = cosines(rows, first, second)
    near = cosine >= least

    def fits(one: Tensor, other: Tensor) -> Tensor:
        return cosines(rows, one, other) >= least

    groups = complete_groups(first[near], second[near], cosine[near], fits)
    return Duplicates(least, [_group(searched, index, rows, group) for group in groups])


def calibrated_copies(
    searched: Searched, rows: Tensor, pictures: FeatureSet, neighbours: Tensor
) -> Duplicates:
    """Groups of images whose small pictures agree, or agree less while features are close.

    Args:
        searched: the images.
        rows: class tokens [n, D].
        pictures: of the same images.
        neighbours: int64 [n, k], nearest others by class tokens.
    """
    likeness = Likeness.of(rows, pictures.rows)
    progress = searched.context.counter("near-duplicates, pairs")
    pairs = likeness.candidates(neighbours, progress)
    same, cosine = same_from(pairs, len(rows)), cosine_from(pairs)
    altered = _altered(searched, rows, pictures)
    evidence = _evidence(pairs, altered, same, cosine, len(rows))
    accepted = pairs.agreement >= same
    if cosine is not None and evidence.tells:
        accepted |= (pairs.agreement >= LIKE) & (pairs.cosine >= cosine)
    found = pairs.where(accepted)
    groups = complete_groups(found.first, found.second, found.agreement, _like(likeness))
    index = pictures.index
    shown = [_group(searched, index, rows, group, likeness) for group in groups]
    return Duplicates(cosine if evidence.tells else None, shown, evidence)


def _like(likeness: Likeness) -> Fits:
    def fits(first: Tensor, second: Tensor) -> Tensor:
        return likeness.measured(first, second).agreement >= LIKE

    return fits


def _group(
    searched: Searched,
    index: NDArray[np.int64],
    rows: Tensor,
    group: list[int],
    likeness: Likeness | None = None,
) -> Group:
    """A group on the page, with the least that two of its images have in common."""
    members = torch.tensor(group)
    similarity = cosines(rows, members[:1].expand_as(members), members)
    similarity[0] = 1
    first, second = pairs_within(group)
    agreed = None
    if likeness is not None:
        agreed = likeness.measured(first, second).agreement.min().item()
    pictures = searched.pictures(index[members.numpy()], similarity)
    return Group(pictures, cosines(rows, first, second).min().item(), agreed)


def _altered(
    searched: Searched, rows: Tensor, pictures: FeatureSet
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of altered copies of some images: kind int64 [c], cosine [c] and agreement [c] with their
    originals; None of images of other channels than red, green and blue.
    """
    if searched.context.reading != PICTURES:
        return None
    places = evenly(len(rows), SAMPLE)
    base = SubsetImages(searched.source, pictures.index[places])
    tokens, small = seen(searched.context, AlteredImages(base), "altered copies")
    kind, which = (torch.from_numpy(part) for part in np.divmod(tokens.index, len(base)))
    original = torch.from_numpy(places)[which]
    number = torch.arange(len(original))
    both = torch.cat([rows[original.to(rows.device)].cpu(), tokens.rows])
    small_ones = torch.cat([pictures.rows[original], small.rows])
    pairs = Likeness.of(both, small_ones).measured(number, number + len(original))
    return kind, pairs.cosine, pairs.agreement


def _evidence(
    pairs: Pairs,
    altered: tuple[Tensor, Tensor, Tensor] | None,
    same: float,
    cosine: float | None,
    count: int,
) -> Evidence:
    """What the thresholds find of the altered copies, and whether the network tells any."""
    kinds: list[Altered] = []
    tells = cosine is not None
    if altered is not None:
        kind, cosines_of, agreed = altered
        close = cosines_of >= (2.0 if cosine is None else cosine)
        tells = tells and knows_again(close, agreed, same)
        for number, name in enumerate(KINDS):
            own = kind == number
            if bool(own.any()):
                alone, network = agreed[own] >= same, close[own]
                either = alone | (network & (agreed[own] >= LIKE))
                shares = (part.float().mean().item() for part in (alone, network, either))
                kinds.append(Altered(KINDS[name], int(own.sum()), *shares))
    other = pairs.where(pairs.agreement < LIKE)
    nearest = torch.full((count,), -torch.inf)
    for ends in (other.first, other.second):
        nearest.scatter_reduce_(0, ends, other.cosine, "amax")
    nearest = nearest[nearest.isfinite()].sort().values
    usual = None
    if len(nearest):
        middle, high = (nearest[int(share * (len(nearest) - 1))].item() for share in (0.5, 0.99))
        usual = middle, high
    return Evidence(same=same, like=LIKE, cosine=cosine, tells=tells, altered=kinds, nearest=usual)
