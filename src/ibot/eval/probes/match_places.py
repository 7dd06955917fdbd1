"""Where a patch of one view lies in another view of the same image (spec_evaluation 10.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PUBLISHED_TOLERANCE = 8 / 224
"""Half a patch of the published view, which is applied as a share of the image instead."""
PRODUCTS = 2**24
"""Held at a time where pictures are matched both ways."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Views of b images."""

    box: Tensor
    """int [b, 4]: top, left, height, width in pixels of the image."""
    flip: Tensor
    """bool [b], whether left and right are swapped."""


@dataclass(frozen=True, slots=True)
class Cells:
    """How a view is cut into patches."""

    grid: tuple[int, int]
    """Rows and columns of the patches."""
    spans: tuple[float, float]
    """Patches that the height and the width of the view hold: the grid, where a side is a multiple
    of the patch."""

    @classmethod
    def of(cls, grid: tuple[int, int], size: tuple[int, int], patch: int) -> Cells:
        """Of views of `size` (height, width) pixels."""
        return cls(grid, (size[0] / patch, size[1] / patch))


def centres(placed: Placed, cells: Cells) -> Tensor:
    """Centres of the patches of each view, in pixels of its image: float64 [b, N, (row, column)].

    Where the grid is larger than the view, those of patches beyond it lie outside of the box.
    """
    top, left, height, width = placed.box.double().unbind(1)
    rows, columns = (
        (torch.arange(count, dtype=torch.float64, device=top.device) + 0.5) / span
        for count, span in zip(cells.grid, cells.spans, strict=True)
    )
    across = torch.where(placed.flip[:, None], 1 - columns, columns)
    y = top[:, None] + rows * height[:, None]
    x = left[:, None] + across * width[:, None]
    return torch.stack(
        [
            y[:, :, None].expand(-1, -1, len(columns)),
            x[:, None, :].expand(-1, len(rows), -1),
        ],
        dim=-1,
    ).flatten(1, 2)


def places_in(points: Tensor, placed: Placed, cells: Cells) -> tuple[Tensor, Tensor]:
    """The patch of a view that holds each point of its image, and whether there is one.

    points: float64 [b, M, (row, column)] in pixels of the image.
    Returns int64 [b, M, 2], row and column of the patch, or of the nearest one; bool [b, M].
    """
    top, left, height, width = placed.box.double().unbind(1)
    down = (points[..., 0] - top[:, None]) / height[:, None]
    across = (points[..., 1] - left[:, None]) / width[:, None]
    inside = (down >= 0) & (down < 1) & (across >= 0) & (across < 1)
    across = torch.where(placed.flip[:, None], 1 - across, across)
    held, found = inside, []
    for share, count, span in zip((down, across), cells.grid, cells.spans, strict=True):
        place = (share * span).floor().long()
        held = held & (place < count)
        found.append(place.clamp(0, count - 1))
    return torch.stack(found, dim=-1), held


def published_overlap(points: Tensor, placed: Placed, cells: Cells, sizes: Tensor) -> Tensor:
    """Which points lie among the centres of a view's patches, give or take 8/224 of the image.

    sizes: [b, 2], height and width of the images in pixels. Returns bool [b, M].
    """
    own = centres(placed, cells)
    margin = PUBLISHED_TOLERANCE * sizes.double()
    low, high = own.amin(dim=1) - margin, own.amax(dim=1) + margin
    return ((points >= low[:, None]) & (points <= high[:, None])).all(dim=-1)


def most_similar(first: Tensor, second: Tensor, *, cosine: bool = True) -> Tensor:
    """For each row of `first` [b, N, D] the most similar one of `second` [b, M, D]: int64 [b, N].

    By the angle between them, or by the inner product as published; of equal ones the first.
    """
    if cosine:
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    # An image at a time: all products of a batch of large views would fill the memory.
    return torch.stack([(a @ b.T).argmax(dim=1) for a, b in zip(first, second, strict=True)])


@dataclass(frozen=True, slots=True)
class Matches:
    """What the N patches of one image find among the M of another."""

    found: Tensor
    """int64 [N], the most similar patch; of equal ones the first."""
    similarity: Tensor
    """float32 [N], cosine with it, or the inner product as published."""
    back: Tensor
    """int64 [M], what each patch of the other image finds in this one."""

    @property
    def mutual(self) -> Tensor:
        """Whether patches find each other, bool [N]."""
        return self.back[self.found] == torch.arange(len(self.found), device=self.found.device)


def matches_between(first: Tensor, second: Tensor, *, cosine: bool = True) -> Matches:
    """Match patches `first` [N, D] and `second` [M, D] both ways, as `most_similar` does one."""
    if cosine:
        first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    best_back = first.new_full((len(second),), -math.inf)
    back = torch.zeros(len(second), dtype=torch.int64, device=first.device)
    found, best = [], []
    # All products of two large pictures would fill the memory.
    for start, rows in _parts(first, max(1, PRODUCTS // len(second))):
        products = rows @ second.T
        values, places = products.max(dim=1)
        best.append(values)
        found.append(places)
        values, places = products.max(dim=0)
        better = values > best_back  # of equal ones the first
        best_back[better], back[better] = values[better], places[better] + start
    return Matches(torch.cat(found), torch.cat(best).float(), back)


def _parts(rows: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Consecutive pieces of at most `size` rows, each with the number of its first."""
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def accuracy_of(
    found: Tensor, true: Tensor, columns: int, radius: int, counted: Tensor | None = None
) -> float:
    """Share of the patches that are found within `radius` patches of their true place, 0..1.

    found: int64 [N], numbers of patches on a grid with that many columns. true: int64 [N, (row,
    column)]. counted: bool [N], patches that have a true place; None: all. NaN where none has one.
    """
    hits = cells_apart(found, true, columns) <= radius
    return (hits if counted is None else hits[counted]).double().mean().item()


def cells_apart(found: Tensor, true: Tensor, columns: int) -> Tensor:
    """The larger of the distances along rows and columns, in patches: int64 [b, N].

    found: int64 [b, N], numbers of patches. true: int64 [b, N, (row, column)].
    """
    places = torch.stack([found // columns, found % columns], dim=-1)
    return (places - true).abs().amax(dim=-1)


def chance(true: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Share of all patches of a grid that lie within `radius` of each of `true`: float64 [b, N].

    The probability that a patch drawn at random counts as found.
    """
    share = torch.ones(true.shape[:-1], dtype=torch.float64, device=true.device)
    for axis, count in enumerate(grid):
        low = (true[..., axis] - radius).clamp(min=0)
        high = (true[..., axis] + radius).clamp(max=count - 1)
        share = share * (high - low + 1) / count
    return share
