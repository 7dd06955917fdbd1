"""Patches found again in another view of the same image: needs no labels (spec_evaluation 10.3).

Two random views of an image overlap. Of the patches of the first that lie in the second, counted is
the share whose most similar patch there is the one at their true place, or at most 1 or 2 patches
from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import Statistics, normalize
from ibot.data.sets.images import Images
from ibot.errors import ConfigError, DataError
from ibot.eval.context import ImagesContext, plain
from ibot.eval.features.rows import unread
from ibot.eval.features.views import evenly, in_batches
from ibot.eval.probes.correspondence import RADII
from ibot.eval.probes.kept_pairs import keep_pairs, view_pairs
from ibot.eval.probes.match_places import (
    Cells,
    cells_apart,
    centres,
    chance,
    most_similar,
    places_in,
    published_overlap,
)
from ibot.eval.probes.patch_tokens import Encode, encoder
from ibot.eval.probes.settings import MatchSettings
from ibot.eval.probes.view_pairs import PairBatch, pair_batches
from ibot.eval.request import Mode
from ibot.eval.scores import bootstrap_mean
from ibot.models.contract import Backbone
from ibot.system.distributed import gather
from ibot.system.processes import Processes
from ibot.types import ResultRecord
from ibot.words import counted

KEPT = 6
"""Images whose views and matches are kept for the picture."""


@dataclass(frozen=True, slots=True)
class Matched:
    """What became of the overlapping patches of n images, in the order of the images."""

    found: Tensor
    """float64 [n, R], per cent within each of `RADII`."""
    chance: Tensor
    """float64 [n, R], what drawing at random finds on average."""
    same_place: Tensor
    """float64 [n, R], what is found by taking the patch at the same place of the view: all that a
    network finds which knows positions alone."""
    patches: Tensor
    """float64 [n], how many overlap, at least one."""
    apart: int
    """Further images whose views do not overlap."""
    bad: list[tuple[str, str]]
    """(name, reason) of images that could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchPlan:
    """How pairs of views are drawn and compared."""

    size: tuple[int, int]
    """Height and width of the views in pixels."""
    patch: int
    """Pixels per patch."""
    statistics: Statistics
    """With which views are normalised."""
    seed: int
    batch: int
    """Images at a time; the same composition whatever the number of processes."""
    mode: Mode = "clean"
    """published: inner products in place of angles, and its overlap (quirk of 10.3)."""
    device: torch.device | str = "cpu"
    workers: int = 0

    @classmethod
    def of(cls, backbone: Backbone, size: tuple[int, int], **more: object) -> MatchPlan:
        """For the patches of a network."""
        return cls(
            size=size,
            patch=backbone.patch_size,
            statistics=backbone.statistics,
            **more,  # pyright: ignore[reportArgumentType]
        )


def run(context: ImagesContext, settings: MatchSettings) -> list[ResultRecord]:
    """One record for each of `RADII`, the mean over the images.

    Raises ConfigError for no images, DataError where none can be read or no two views overlap,
    WeightsError for outputs that are not finite.
    """
    if settings.images < 1:
        raise ConfigError(f"images={settings.images}: at least one is needed")
    backbone = context.loaded.backbone
    plan = MatchPlan.of(
        backbone,
        context.view.size,
        seed=context.seed,
        batch=max(1, context.batch // 2),  # two views each
        mode=context.mode,
        device=context.device,
        workers=context.workers,
    )
    matched = match(
        encoder(backbone, settings.features),
        context.images,
        evenly(len(context.images), settings.images),
        plan,
        context.processes,
        context.counter("pairs of views"),
    )
    shown = f"match-{context.identity('match', plain(settings))}"
    notes = unread(matched.bad)
    if matched.apart:
        notes.append(f"views of {counted(matched.apart, 'image')} do not overlap and are left out")
    records = [
        context.record(
            "match",
            f"match_r{radius}",
            matched.found[:, i].mean().item(),
            {**plain(settings), "radius": radius},
            interval=bootstrap_mean(matched.found[:, i], context.seed),
            num_val=len(matched.found),
            row=f"within {radius} patches" if radius != 1 else "within 1 patch",
            notes=notes,
            shown=shown,
            **about(matched, i),
        )
        for i, radius in enumerate(RADII)
    ]
    if context.processes.is_main:  # after the records, whose speed is that of the evaluation
        pairs = view_pairs(
            context.loaded.backbone,
            context.images,
            evenly(len(context.images), min(KEPT, settings.images)),
            plan.size,
            seed=plan.seed,
            feature=settings.features,
            published=plan.mode == "published",
        )
        keep_pairs(context.out / shown, f"{context.weights}, {settings.features}", pairs)
    return records


def about(matched: Matched, place: int) -> dict[str, Any]:
    """What a record of the radius at `place` says beside its number."""
    return {
        "chance": matched.chance[:, place].mean().item(),
        "same_place": matched.same_place[:, place].mean().item(),
        "patches_per_image": matched.patches.mean().item(),
    }


def match(
    encode: Encode,
    images: Images,
    chosen: NDArray[np.int64],
    plan: MatchPlan,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> Matched:
    """Score `chosen` images; each process computes some of the batches, and all get all scores.

    encode: makes rows of the patches of normalised views. progress: called with the images done.
    Raises DataError where no image can be read or no two views overlap.
    """
    mine = in_batches(chosen, plan.batch)[processes.rank :: processes.world_size]
    rows: list[tuple[int, Tensor]] = []
    bad: list[tuple[int, str]] = []
    done, total = 0, sum(map(len, mine))
    with torch.inference_mode():
        for pairs in pair_batches(
            images, plan.size, mine, plan.seed, plan.workers, plan.statistics[1]
        ):
            if len(pairs.positions):
                found = scores(encode, pairs, plan)
                rows.extend(zip(pairs.positions.tolist(), found.cpu(), strict=True))
            bad.extend(pairs.bad)
            done += len(pairs.positions) + len(pairs.bad)
            if progress is not None:
                progress(done, total)
    bad = sorted(chain(*gather(bad)))
    every = [row for _, row in sorted(chain(*gather(rows)), key=lambda item: item[0])]
    overlapping = [row for row in every if row[0, -1] > 0]
    if not every:
        why = bad[0][1] if bad else ""
        raise DataError(
            f"none of the {len(chosen)} images under '{images.root}' can be read", why=why
        )
    if not overlapping:
        raise DataError(f"no two views of the {len(every)} images under '{images.root}' overlap")
    values = torch.stack(overlapping).clone()  # outside of inference mode
    return Matched(
        found=100 * values[:, 0, :-1],
        chance=100 * values[:, 1, :-1],
        same_place=100 * values[:, 2, :-1],
        patches=values[:, 0, -1],
        apart=len(every) - len(overlapping),
        bad=[(images.name(position), reason) for position, reason in bad],
    )


def scores(encode: Encode, pairs: PairBatch, plan: MatchPlan) -> Tensor:
    """Of each image the shares for `RADII` and the number of overlapping patches.

    Returns float64 [b, 3, R + 1]: found, by chance, and by taking the same place, 0..1; NaN where
    no patch overlaps.
    """
    views = torch.cat(pairs.views).to(plan.device)
    rows, grid = encode(normalize(views, plan.statistics))
    first, second = rows.chunk(2)
    cells = Cells.of(grid, plan.size, plan.patch)
    points = centres(pairs.placed[0], cells)
    true, held = places_in(points, pairs.placed[1], cells)
    _, inside = places_in(points, pairs.placed[0], cells)
    if plan.mode == "published":
        held = published_overlap(points, pairs.placed[1], cells, pairs.sizes)
    held &= inside  # a padded grid has patches beyond its own view
    nearest = most_similar(first, second, cosine=plan.mode == "clean").cpu()
    same = torch.arange(grid[0] * grid[1]).expand_as(nearest)
    count = held.sum(dim=1).double()

    def shares(values: Tensor) -> Tensor:
        """Means over the overlapping patches of [b, N]."""
        return (values.double() * held).sum(dim=1) / count

    table = [
        [shares(cells_apart(nearest, true, grid[1]) <= radius) for radius in RADII],
        [shares(chance(true, grid, radius)) for radius in RADII],
        [shares(cells_apart(same, true, grid[1]) <= radius) for radius in RADII],
    ]
    return torch.stack([torch.stack([*row, count], dim=1) for row in table], dim=1)
