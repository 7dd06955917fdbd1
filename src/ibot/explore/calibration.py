"""From which likeness on two images of a set are copies: told from the set's own images.

Two things say so. Small gray pictures that agree (`glimpses`), whatever the network: 0.95, or more
where images of the set agree without being copies, as radiographs do. And, where they agree less,
as after a stronger crop or with text across, features that are more alike than those of pairs that
agree a little less still, and so are no copies: 1 in 200 of those is as near. Whether features say
anything at all is seen on altered copies of some images of the set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ibot.explore.pairs import EXACT, Pairs

SAME = 0.95
"""Agreement of copies. Of 3,000 photographs with 1,502 copies 95 % of the copies are above it, and
two pairs of other images."""
LIKE = 0.85
"""Agreement below which two images are no copies, whatever the network says: 1,500 of 1,502 copies
are above it."""
UNLIKE = 0.75
"""From here to `LIKE` pairs agree somewhat and are no copies: what their features have in common
is what says nothing."""
FALSE_SHARE = 1 / 200
"""Of such pairs have features as alike as the threshold."""
TAIL = 0.1
"""Share of such pairs on which the threshold rests: their excess over the others."""
ENOUGH = 50
"""Such pairs below which the network is not asked."""
TELLS = 0.5
"""Share of altered copies whose pictures leave it open, from `LIKE` to the agreement of copies,
that must be as alike as the threshold. Of 66 such copies of photographs a network after 781 steps
of training had 54 above it, its random start 25."""
STORED_ANEW = 0.9995
"""Agreement of files that were stored anew: these say nothing about images that are no copies."""
RANK, RANK_SHARE, MOST_SAME = 5, 0.99, 0.999
"""Images seldom have five copies: where the fifth nearest agree more than `SAME` for more than one
in a hundred images, the set's images agree by themselves."""


def same_from(pairs: Pairs, count: int) -> float:
    """Agreement from which two of `count` images are copies."""
    usual = pairs.where(pairs.agreement < STORED_ANEW)
    image = torch.cat([usual.first, usual.second])
    value = usual.agreement.repeat(2)
    order = value.argsort(descending=True)
    image, value = image[order], value[order]
    order = image.argsort(stable=True)
    image, value = image[order], value[order]
    start = torch.searchsorted(image, torch.arange(count))
    fifth = start + RANK - 1
    end = torch.searchsorted(image, torch.arange(count), right=True)
    values = torch.zeros(count)
    values[fifth < end] = value[fifth[fifth < end]]
    # Interpolated downwards: of a few images the strangest says nothing.
    usual_fifth = values.sort().values[int(RANK_SHARE * (count - 1))].item()
    return min(max(SAME, usual_fifth), MOST_SAME)


def cosine_from(pairs: Pairs) -> float | None:
    """Cosine from which two images that agree from `LIKE` on are copies.

    None: too few pairs to tell. The tail of their cosines is taken to be exponential in
    -log(1 - cosine), in which it is nearly straight.
    """
    null = pairs.where((pairs.agreement >= UNLIKE) & (pairs.agreement < LIKE)).cosine
    if len(null) < ENOUGH:
        null = pairs.where(pairs.agreement < LIKE).cosine
    if len(null) < ENOUGH:
        return None
    return min(upper_tail(null, FALSE_SHARE), EXACT)


def knows_again(close: Tensor, agreement: Tensor, same: float) -> bool:
    """Whether a network helps where pictures leave it open.

    close: bool [c], which altered copies it finds as alike as its threshold; agreement: [c], of
    their pictures; same: from which these suffice. False where there are none such.
    """
    left_open = (agreement >= LIKE) & (agreement < same)
    return bool(left_open.any()) and close[left_open].float().mean().item() >= TELLS


def upper_tail(cosine: Tensor, share: float) -> float:
    """The cosine that a share of many like those of [n] exceeds: exponential above their tenth."""
    depth = (-torch.log1p(-cosine.double().clamp_max(1 - 1e-7))).sort().values
    start = depth[int((1 - TAIL) * (len(depth) - 1))]
    excess = (depth[depth > start] - start).mean() if bool((depth > start).any()) else 0.0
    return 1 - math.exp(-float(start + excess * math.log(TAIL / share)))
