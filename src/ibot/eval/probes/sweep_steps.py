"""Steps of a linear sweep: features of plain images, or of new random crops in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.eval.features.rows import LabelledFeatures, places_of
from ibot.eval.features.views import in_batches
from ibot.eval.labelled import LabelledContext
from ibot.eval.probes.crops import crop_batches
from ibot.eval.probes.sweep_training import Steps, SweepStep
from ibot.rng import permutation


def row_steps(
    context: LabelledContext,
    fit: NDArray[np.int64],
    batch: int,
    given: Mapping[Any, LabelledFeatures],
) -> Steps:
    """Over features that lie in files and are read as they are needed; `fit` numbers the images."""
    rank, world = context.processes.rank, context.processes.world_size
    first = next(iter(given.values()))
    places = places_of(first, fit)

    def steps(epoch: int) -> Iterator[SweepStep]:
        order = places[permutation(context.seed, epoch, len(places))]
        for whole in in_batches(order, batch):
            own = torch.from_numpy(whole[rank::world])
            found = {key: rows.rows[own].to(context.device) for key, rows in given.items()}
            yield SweepStep(found, first.labels[own].to(context.device), len(whole))

    return steps


def crop_steps(
    context: LabelledContext,
    fit: NDArray[np.int64],
    batch: int,
    extract: Callable[[Tensor], Mapping[Any, Tensor]],
) -> Steps:
    """Over random crops of the images `fit`, drawn anew in each epoch.

    extract: maps normalised images [b, 3, h, w] to rows [b, d] by key.
    """
    rank, world = context.processes.rank, context.processes.world_size
    labels = torch.from_numpy(np.asarray(context.train.labels, np.int64))
    statistics = context.loaded.backbone.statistics

    @torch.no_grad()
    def rows_of(views: Tensor) -> dict[Any, Tensor]:
        pieces = [
            extract(normalize(piece.to(context.device), statistics))
            for piece in views.split(context.batch)
        ]
        return {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}

    def steps(epoch: int) -> Iterator[SweepStep]:
        whole = in_batches(fit[permutation(context.seed, epoch, len(fit))], batch)
        own = [step[rank::world] for step in whole]
        crops = crop_batches(
            context.train, context.view.size, own, context.seed, epoch, context.workers
        )
        for part, step in zip(crops, whole, strict=True):
            truth = labels[torch.from_numpy(part.positions)].to(context.device)
            yield SweepStep(rows_of(part.views), truth, len(step))

    return steps
