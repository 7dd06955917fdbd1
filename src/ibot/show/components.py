"""Patch tokens as colours: principal components, foreground first (users ask how; here is how).

1. The first principal component of all patches that the fit is given parts them at its mean.
2. Foreground is the side that holds less of the pictures' borders than of their insides; with
   equal shares, or without knowing the borders, the side of fewer patches, else the upper one.
3. The principal components of the foreground alone, the first three, are red, green and blue.
   Each axis is signed so that its largest weight is positive.
4. Each colour runs from percentile 1 to 99 of the foreground; what lies beyond is clipped.

All in float64 on the CPU: the same tokens give the same colours, bit by bit. A component without
variance (fewer patches than components, constant features) is the middle of its colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLIP = (1.0, 99.0)
"""Percentiles that become 0 and 1."""
FLAT = 1e-9
"""Variance, as a share of the mean square of the features, below which there is none."""
_MOST = 2**16
"""Evenly spaced patches from which percentiles are taken, where there are more."""


@dataclass(frozen=True, slots=True)
class Colours:
    """What patches look like."""

    rgb: Tensor
    """float32 [n, 3] in 0..1; 0 in the background."""
    foreground: Tensor
    """bool [n]."""
    first: Tensor
    """float32 [n], the component that parts them, above 0 in the foreground; zeros without a
    foreground rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Axes and colours that were fitted to some patches, for these and for others."""

    split_mean: Tensor
    """float64 [D]."""
    split_axis: Tensor | None
    """float64 [D], towards the foreground; None: all is foreground."""
    mean: Tensor
    """float64 [D], of the foreground."""
    axes: Tensor
    """float64 [D, 3]; a column of zeros for a component that there is not."""
    low: Tensor
    high: Tensor
    """float64 [3], what becomes 0 and 1."""
    variance: tuple[float, float, float]
    """Share of the foreground's variance along each axis."""
    steps: tuple[str, ...]
    """What was done, in words."""

    def colours(self, tokens: Tensor) -> Colours:
        """Colours of patch tokens [n, D]."""
        rows = tokens.detach().double().cpu()
        first = torch.zeros(len(rows), dtype=torch.float64)
        foreground = torch.ones(len(rows), dtype=torch.bool)
        if self.split_axis is not None:
            first = (rows - self.split_mean) @ self.split_axis
            foreground = first > 0
        found = (rows - self.mean) @ self.axes
        span = self.high - self.low
        shares = torch.where(span > 0, (found - self.low) / torch.where(span > 0, span, 1.0), 0.5)
        rgb = shares.clamp(0, 1) * foreground[:, None]
        return Colours(rgb.float(), foreground, first.float())


def fit_components(
    tokens: Tensor,
    border: Tensor | None = None,
    *,
    foreground: bool = True,
    clip: tuple[float, float] = CLIP,
) -> Components:
    """Fit colours to patch tokens [n, D] of one picture or of many together.

    Args:
        tokens: finite numbers, one patch at least.
        border: bool [n], whether a patch lies at the border of its picture (`border_of`); None:
            not known.
        foreground: part the patches first; False: all are foreground.
        clip: percentiles that become 0 and 1.

    Raises:
        ValueError: no patches, or numbers that are not finite.
    """
    rows = tokens.detach().double().cpu()
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"patch tokens are [n, D] with n of at least 1, not {list(tokens.shape)}")
    if not bool(rows.isfinite().all()):
        raise ValueError("patch tokens must be finite")
    mean, axes, shares = principal(rows, 1)
    split_axis, steps = None, []
    inside = torch.ones(len(rows), dtype=torch.bool)
    if foreground and shares[0] > 0:
        first = (rows - mean) @ axes[:, 0]
        sign = _side(first > 0, border)
        split_axis = axes[:, 0] * sign
        inside = (rows - mean) @ split_axis > 0
        share = f"{100 * float(inside.double().mean()):.0f} % of the patches"
        steps.append(f"foreground: by the first component, the side with less border: {share}")
    elif foreground:
        steps.append("foreground: all, as the features are constant")
    kept = rows[inside]
    inner_mean, inner_axes, variance = principal(kept, 3)
    found = (kept - inner_mean) @ inner_axes
    sample = found[:: max(1, -(-len(found) // _MOST))]
    low, high = torch.quantile(sample, torch.tensor(clip, dtype=torch.float64) / 100, dim=0)
    explained = ", ".join(f"{100 * share:.0f}" for share in variance)
    steps.append(f"red, green, blue: its components 1 to 3, {explained} % of its variance")
    steps.append(f"clipped at percentiles {clip[0]:g} and {clip[1]:g}")
    return Components(
        split_mean=mean,
        split_axis=split_axis,
        mean=inner_mean,
        axes=inner_axes,
        low=low,
        high=high,
        variance=(variance[0], variance[1], variance[2]),
        steps=tuple(steps),
    )


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor, list[float]]:
    """Mean [D], the first `count` principal axes [D, count], and their shares of the variance.

    rows: float64 [n, D]. Axes have unit length and a positive largest weight; those without
    variance are zero.
    """
    mean = rows.mean(0)
    centered = rows - mean
    width = rows.shape[1]
    total = float(centered.square().sum())
    axes, shares = torch.zeros(width, count, dtype=torch.float64), [0.0] * count
    if total <= FLAT * float(rows.square().sum()):
        return mean, axes, shares
    values, vectors = torch.linalg.eigh(centered.T @ centered)
    for i in range(min(count, width)):
        if float(values[-1 - i]) <= FLAT * total:
            break
        axis = vectors[:, -1 - i]
        axes[:, i] = axis * torch.sign(axis[axis.abs().argmax()])
        shares[i] = float(values[-1 - i]) / total
    return mean, axes, shares


def border_of(grid: tuple[int, int]) -> Tensor:
    """Which patches of a grid (h, w) lie at its border: bool [h * w]."""
    edge = torch.ones(grid, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return edge.flatten()


def _side(above: Tensor, border: Tensor | None) -> int:
    """1 if the patches `above` bool [n] are the foreground, -1 if the others are."""
    if border is not None and bool(border.any()) and not bool(border.all()):
        edge = border.cpu()
        at_border, inside = (float(above[part].double().mean()) for part in (edge, ~edge))
        if at_border != inside:
            return 1 if at_border < inside else -1
    return 1 if 2 * int(above.sum()) <= len(above) else -1
