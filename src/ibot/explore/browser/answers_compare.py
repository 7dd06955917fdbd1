"""Which patch of one image is most like each patch of another."""

from __future__ import annotations

from typing import Any

from ibot.eval.probes.match_places import matches_between
from ibot.explore.browser.answers_image import seen
from ibot.explore.browser.occurring import listed
from ibot.explore.browser.refusal import Refused
from ibot.explore.browser.session import Session


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
