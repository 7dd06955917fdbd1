"""Which patch of one image is most like each patch of another."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.explore.answers_image import seen
from ibot.explore.occurring import listed
from ibot.explore.session import Session


def match(session: Session, c: int | None, cb: int | None, a: str, b: str) -> dict[str, Any]:
    """For each patch of `a` at checkpoint `c` its match in `b` at `cb`. Raises Refused."""
    one, other = seen(session, c, a), seen(session, cb, b)
    if one.patches.shape[1] != other.patches.shape[1]:
        from ibot.explore.refusal import Refused

        raise Refused(400, "features of these checkpoints cannot be compared")
    found, cosine, mutual = matches(one.patches, other.patches)
    saliency = torch.zeros(0) if one.attention is None else one.attention.mean(dim=0).flatten()
    return {
        "grid_a": list(one.grid),
        "grid_b": list(other.grid),
        "match": found.tolist(),
        "cosine": listed(cosine.numpy()),
        "mutual": mutual.tolist(),
        "saliency": listed(saliency.numpy(), 6),
    }


def matches(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of patches a [N, D] in b [M, D]: the most similar int64 [N], its cosine [N], and whether it
    has the same one for its own, bool [N].
    """
    cosine = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    best, found = cosine.max(dim=1)
    back = cosine.argmax(dim=0)
    return found, best, back[found] == torch.arange(len(a))
