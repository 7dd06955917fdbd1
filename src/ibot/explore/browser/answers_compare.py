"""Which patch of one image is most like each patch of another, and which images to compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from ibot.data.decode import UnreadableImage
from ibot.eval.features.views import evenly
from ibot.eval.probes.match_places import matches_between
from ibot.explore.browser.answers_image import seen
from ibot.explore.browser.answers_map import points_of
from ibot.explore.browser.embedding import unit
from ibot.explore.browser.jobs import Job
from ibot.explore.browser.occurring import listed
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session

FIRST = 256
"""Images among which the pair that is shown first is sought, each against all others."""
TRIED = 16
"""Pairs of which the first that can be shown is taken."""


def pair(session: Session, c: int | None, a: str | None) -> dict[str, Any]:
    """Two images that are worth comparing: `a` and the one with the most similar class token.

    Without `a` the nearest pair of images spread over the set; null for what is not known, or not
    yet. Raises Refused.
    """
    if session.checkpoint(c).index is None:
        return {"a": a, "b": None}  # not worth a look at every image
    found = points_of(session, c)
    if isinstance(found, Job) or len(found.rows) < 2:
        return {"a": a, "b": None}
    if a is None:
        rows = evenly(len(found.rows), FIRST)
        chosen = found.rows[rows]
    else:
        rows = np.flatnonzero(found.index == int(a)) if a.isdecimal() else np.zeros(0, np.int64)
        chosen = unit(seen(session, c, a).cls[None].float().cpu().numpy())
    cosine = chosen @ found.rows.T
    if len(rows):
        cosine[np.arange(len(rows)), rows] = -np.inf  # itself
    best = np.argpartition(-cosine, min(TRIED, cosine.size) - 1, axis=None)[:TRIED]
    for place in best[np.argsort(-cosine.flat[best])]:
        one, other = divmod(int(place), cosine.shape[1])
        first = int(found.index[rows[one]]) if len(rows) else a
        second = int(found.index[other])
        if _shown(session, str(first)) and _shown(session, str(second)):
            return {"a": first, "b": second}
    return {"a": a, "b": None}


def _shown(session: Session, image: str) -> bool:
    """Whether an image can be shown: files go, and links that lead out are not followed."""
    try:
        session.pictured().pixels(image)
    except UnreadableImage:
        return False
    return True


def match(session: Session, c: int | None, cb: int | None, a: str, b: str) -> dict[str, Any]:
    """For each patch of `a` at checkpoint `c` its match in `b` at `cb`. Raises Refused."""
    one, other = seen(session, c, a), seen(session, cb, b)
    if one.patches.shape[1] != other.patches.shape[1]:
        raise Refused(400, "features of these checkpoints cannot be compared")
    found = matches_between(one.patches, other.patches, cosine=True)
    saliency = one.attention
    return {
        "grid_a": list(one.grid),
        "grid_b": list(other.grid),
        "match": found.found.tolist(),
        "cosine": listed(found.similarity.numpy()),
        "mutual": found.mutual.tolist(),
        "saliency": [] if saliency is None else listed(saliency.mean(dim=0).flatten().numpy(), 6),
    }
