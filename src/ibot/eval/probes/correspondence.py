"""What the patches of one picture find in another, and which of them are worth a line
(spec_evaluation 10.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibot.eval.features.tokens import finite
from ibot.eval.probes.match_places import (
    Cells,
    Matches,
    Placed,
    accuracy_of,
    centres,
    chance,
    matches_between,
    places_in,
)
from ibot.eval.probes.patch_tokens import PatchFeature, encoder
from ibot.models.contract import Backbone

RADII = (0, 1, 2)
"""Patches from the true place that still count as found."""
BY_ATTENTION = "attention of the class token, mean over heads"
BY_WINDOWS = "attention received in the windows, mean over heads"
BY_LENGTH = "length of the patch token before the final norm"


@dataclass(frozen=True, slots=True)
class Truth:
    """Where patches of the first picture lie in the second."""

    place: Tensor
    """int64 [N, (row, column)], the patch of the second, or the nearest one."""
    held: Tensor
    """bool [N], whether there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correspondence:
    """Patches of two pictures."""

    cells: tuple[Cells, Cells]
    """How both are cut into patches."""
    matches: Matches
    saliency: Tensor
    """float32 [N] of the first picture's patches."""
    salient_by: str
    """What that is, in words."""
    cosine: bool = True
    """False: inner products, as published."""
    truth: Truth | None = None

    def accuracy(self) -> dict[str, Any]:
        """Of the patches that have a true place the share found within each of `RADII`, and by
        chance; their number. Empty where no truth is known, shares None where no patch has a place.
        """
        if self.truth is None:
            return {}
        true, held, grid = self.truth.place, self.truth.held, self.cells[1].grid
        count = int(held.sum())
        shares = {}
        for radius in RADII:
            found = accuracy_of(self.matches.found, true, grid[1], radius, held)
            lucky = chance(true, grid, radius)[held].mean().item()
            shares[str(radius)] = {"found": found, "chance": lucky} if count else None
        return {"patches": count, "within": shares}

    def as_plain(self) -> dict[str, Any]:
        """What JSON holds, a row for each patch of the first picture."""
        columns = [cells.grid[1] for cells in self.cells]
        matches, rows = self.matches, []
        mutual = matches.mutual.tolist()
        for number, found in enumerate(matches.found.tolist()):
            row = {
                "patch": [number // columns[0], number % columns[0]],
                "match": [found // columns[1], found % columns[1]],
                "similarity": round(matches.similarity[number].item(), 6),
                "mutual": mutual[number],
                "saliency": round(self.saliency[number].item(), 8),
            }
            if self.truth is not None:
                held = bool(self.truth.held[number])
                row["true"] = self.truth.place[number].tolist() if held else None
            rows.append(row)
        return {
            "grids": [list(cells.grid) for cells in self.cells],
            "spans": [list(cells.spans) for cells in self.cells],
            "similarity": "cosine" if self.cosine else "inner product",
            "salient_by": self.salient_by,
            "accuracy": self.accuracy(),
            "matches": rows,
            "back": matches.back.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Correspondence:
        """What `as_plain` gave. Raises KeyError for something else."""
        rows = plain["matches"]
        first, second = map(_cells, plain["grids"], plain["spans"])
        found = torch.tensor([row["match"] for row in rows])
        similarity = torch.tensor([row["similarity"] for row in rows])
        truth = None
        if rows and "true" in rows[0]:
            places = torch.tensor([row["true"] or [0, 0] for row in rows])
            truth = Truth(places, torch.tensor([row["true"] is not None for row in rows]))
        return cls(
            cells=(first, second),
            matches=Matches(
                found[:, 0] * second.grid[1] + found[:, 1],
                similarity,
                torch.tensor(plain["back"]),
            ),
            saliency=torch.tensor([row["saliency"] for row in rows]),
            salient_by=plain["salient_by"],
            cosine=plain["similarity"] == "cosine",
            truth=truth,
        )


def _cells(grid: list[int], spans: list[float]) -> Cells:
    return Cells((grid[0], grid[1]), (spans[0], spans[1]))


@torch.no_grad()
def correspond(
    backbone: Backbone,
    first: Tensor,
    second: Tensor,
    *,
    feature: PatchFeature = "network",
    cosine: bool = True,
    truth: Truth | None = None,
) -> Correspondence:
    """Match the patches of two pictures, normalised [1, 3, H, W] of any two sizes.

    On the CPU, wherever the network is. Raises WeightsError for outputs that are not finite.
    """
    saliency, salient_by = salience(backbone, first)
    encode = encoder(backbone, feature)
    one, other = encode(first), encode(second)
    matches = matches_between(one.rows[0], other.rows[0], cosine=cosine)
    return Correspondence(
        cells=(_cells_of(backbone, first, one.grid), _cells_of(backbone, second, other.grid)),
        matches=Matches(matches.found.cpu(), matches.similarity.cpu(), matches.back.cpu()),
        saliency=saliency[0].cpu(),
        salient_by=salient_by,
        cosine=cosine,
        truth=truth,
    )


def _cells_of(backbone: Backbone, images: Tensor, grid: tuple[int, int]) -> Cells:
    return Cells.of(grid, (images.shape[-2], images.shape[-1]), backbone.patch_size)


@torch.no_grad()
def salience(backbone: Backbone, images: Tensor) -> tuple[Tensor, str]:
    """How much each patch matters to the network: float32 [B, N], and by what that is measured.

    The attention of its own class token, as the paper says (its code takes another network's). Of a
    network without one what patches receive in their windows; without any attention the length of
    the tokens before the norm that makes all alike.
    """
    if backbone.class_heads:
        _, attention = backbone.tokens_and_attention(images)
        return finite(attention.float()).mean(dim=1), BY_ATTENTION
    try:
        received = backbone.received_attention(images)
    except ValueError:
        tokens = backbone.last_layers(images, 1, norm=False)[0].patches
        return finite(tokens.float()).norm(dim=-1), BY_LENGTH
    return finite(received.float()).mean(dim=1).flatten(1), BY_WINDOWS


def true_places(
    placed: tuple[Placed, Placed],
    cells: tuple[Cells, Cells],
    moved: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Truth:
    """Where patches of one view lie in another, from where both lie in their images.

    placed: a view each. moved: where points [N, (row, column)] in pixels of the first image lie in
    the second one, float64 [N, 2], and whether that is known, bool [N]; None: it is one image.
    """
    points = centres(placed[0], cells[0])
    _, inside = places_in(points, placed[0], cells[0])  # a padded grid has patches beyond its view
    known = inside
    if moved is not None:
        there, told = moved(points[0])
        points, known = there[None], inside & told[None]
    place, held = places_in(points.nan_to_num(), placed[1], cells[1])
    return Truth(place[0], (held & known)[0])
