"""Features of several networks in one pass over the images, which are read and rendered once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ibot.data.sets.images import Images
from ibot.eval.features.cache import filled
from ibot.eval.features.entry import Entry
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.tokens import Feature, compute
from ibot.eval.features.views import View
from ibot.models.contract import Backbone

Network = tuple[Backbone, str]
"""In evaluation mode on the device; and its `weights_hash`, or what else names its features."""


class _Of(NamedTuple):
    """A feature of one of the networks."""

    network: int
    feature: Feature


def features_together(
    networks: Sequence[Network],
    images: Images,
    view: View,
    features: Sequence[Feature],
    folder: Path,
    **how: Any,
) -> dict[Feature, FeatureSet]:
    """Features of the first network; the others leave theirs in the cache, for those who ask later.

    All networks are normalised alike. Those with fewer blocks than a feature takes leave it out.
    `how`: as of `filled`. Raises as `cached_features`.
    """
    wanted = [
        _Of(number, feature)
        for number, (backbone, _) in enumerate(networks)
        for feature in features
        if feature.blocks <= backbone.num_blocks or not number
    ]
    entries = {
        one: Entry(folder, networks[one.network][1], images, view, one.feature) for one in wanted
    }

    def extract(views: Tensor, missing: Sequence[_Of]) -> Mapping[_Of, Tensor]:
        rows: dict[_Of, Tensor] = {}
        for number, (backbone, _) in enumerate(networks):
            if own := [one.feature for one in missing if one.network == number]:
                found = compute(backbone, views, own)
                rows |= {_Of(number, feature): found[feature] for feature in own}
        return rows

    found = filled(entries, extract, networks[0][0], images, view, **how)
    return {one.feature: rows for one, rows in found.items() if not one.network}
