"""Images as small gray pictures, and how well two of them agree: a check that knows no network.

A copy that was saved again, resized, brightened, cropped a little, mirrored or written on still has
its places of light and dark. Two pictures agree as their correlation says, the largest over small
shifts and crops of either and over mirror images; brightness and contrast do not count.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
"""Pixels a side: of fewer, different images agree too often; of more, cropped copies do not."""
COARSE = 8
"""Pixels a side by which candidates are sought."""
GLIMPSE = f"gray{SIDE}"
"""The name of these pictures among cached features."""
LUMA = [0.299, 0.587, 0.114]
"""Shares of red, green and blue, as where a picture is stored without colour; of other channels all
count alike."""
FLAT = 0.02
"""Deviation, in that of the network's statistics, below which a picture shows nothing."""
LEVELS = 40.0
"""Numbers per deviation: three deviations fit into a byte."""
_SHIFTS = (1.0, (-0.75, 0.0, 0.75))
_CROPS = tuple(
    (scale, tuple(SIDE * (1 - scale) * at for at in (0, 0.5, 1))) for scale in (0.95, 0.9, 0.85)
)
"""Sides of a window as a share, and where it begins in pixels, down and across alike."""


def glimpses(views: Tensor) -> Tensor:
    """Gray pictures, int8 [b, SIDE * SIDE], of normalised views [b, C, h, w].

    Each is brought to mean 0 and deviation `LEVELS`; zeros where the view shows nothing.
    """
    shares = views.new_tensor(
        LUMA if views.shape[1] == 3 else [1 / views.shape[1]] * views.shape[1]
    )
    gray = torch.einsum("bchw,c->bhw", views.float(), shares.float())[:, None]
    gray = F.adaptive_avg_pool2d(gray, SIDE).flatten(1)
    gray = gray - gray.mean(1, keepdim=True)
    deviation = gray.std(1, keepdim=True)
    scaled = torch.where(deviation > FLAT, gray * (LEVELS / deviation.clamp_min(FLAT)), 0.0)
    return scaled.round().clamp(-127, 127).to(torch.int8)


def coarse(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures int8 [n, SIDE * SIDE] and their mirror images, few pixels each, for a search.

    Rows [n, COARSE * COARSE] of mean 0 and length 1, or of zeros.
    """
    small = F.avg_pool2d(pictures.float().view(-1, 1, SIDE, SIDE), SIDE // COARSE)
    return _unit(small.flatten(1)), _unit(small.flip(-1).flatten(1))


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Largest correlation [b], at most 1, of pictures int8 [b, SIDE * SIDE] with others.

    0 where one of them shows nothing.
    """
    first, second = (part.float().view(-1, SIDE, SIDE) for part in (first, second))
    return torch.maximum(_within(first, second), _within(second, first))


def _within(outer: Tensor, inner: Tensor) -> Tensor:
    """Largest correlation [b] of windows of `outer` [b, SIDE, SIDE] with `inner` or its mirror."""
    wanted = torch.stack([_unit(part.flatten(1)) for part in (inner, inner.flip(-1))], 2)
    best = outer.new_zeros(len(outer))
    for scale, starts in (_SHIFTS, *_CROPS):
        taking = torch.stack([_window(scale, start) for start in starts]).to(outer)
        rows = torch.einsum("aij,bjk->baik", taking, outer)
        windows = torch.einsum("baik,clk->bacil", rows, taking).flatten(3).flatten(1, 2)
        best = torch.maximum(best, (_unit(windows) @ wanted).flatten(1).amax(1))
    return best


def _window(scale: float, start: float) -> Tensor:
    """What takes SIDE points of a window from SIDE pixels, linearly: [SIDE, SIDE]."""
    at = (start + (torch.arange(SIDE) + 0.5) * scale - 0.5).clamp(0, SIDE - 1)
    low = at.floor().long().clamp_max(SIDE - 2)
    taking = torch.zeros(SIDE, SIDE)
    rows = torch.arange(SIDE)
    taking[rows, low], taking[rows, low + 1] = 1 - (at - low), at - low
    return taking


def _unit(rows: Tensor) -> Tensor:
    """Rows [..., d] brought to mean 0 and length 1; constant ones become zeros."""
    return F.normalize(rows - rows.mean(-1, keepdim=True), dim=-1, eps=1e-3)
