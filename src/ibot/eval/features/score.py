"""One pass over the images of a set with a network that is not only asked for its features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.images import Images
from ibot.data.sets.same_channels import require_channels
from ibot.errors import DataError
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.views import in_batches, view_batches
from ibot.system.distributed import gather

if TYPE_CHECKING:
    from ibot.eval.context import Context

Score = Callable[[Tensor, NDArray[np.int64]], Tensor]
"""Normalised images [b, C, h, w] on the device and their numbers int64 [b] -> rows [b, ...]."""


def score_images(context: Context, images: Images, score: Score, name: str) -> FeatureSet:
    """Rows that `score` makes of the images of a set, in the order of the set, on the CPU.

    Batches are the same whatever the number of processes; each process computes some of them and
    gets all rows.

    Args:
        context: its view, batch, workers and processes are used.
        images: the set.
        score: called without gradients, once for each batch.
        name: of the progress counter.

    Returns:
        Rows [n, ...] of the n readable images, not cached.

    Raises:
        DataError: none of the images can be read, or they have other channels than the network.
    """
    require_channels(images, context.loaded.backbone.channels)
    whole = in_batches(np.arange(len(images)), context.batch)
    mine = whole[context.processes.rank :: context.processes.world_size]
    counter, total, done = context.counter(name), sum(map(len, mine)), 0
    rows: list[Tensor] = []
    read: list[NDArray[np.int64]] = []
    bad: list[tuple[int, str]] = []
    statistics = context.loaded.backbone.statistics
    with torch.inference_mode():
        for part in view_batches(images, context.view, mine, context.workers):
            if len(part.positions):
                views = normalize(part.views.to(context.device), statistics)
                rows.append(score(views, part.positions).cpu())
                read.append(part.positions)
            bad.extend(part.bad)
            done += len(part.positions) + len(part.bad)
            if counter is not None:
                counter(done, total)
    rows, read = list(chain(*gather(rows))), list(chain(*gather(read)))
    bad = sorted(chain(*gather(bad)))
    if not rows:
        raise DataError(
            f"none of the {len(images)} images under '{images.root}' can be read", why=bad[0][1]
        )
    index = np.concatenate(read)
    order = np.argsort(index)
    return FeatureSet(
        rows=torch.cat(rows)[torch.from_numpy(order)],
        index=index[order],
        bad=[(images.name(position), reason) for position, reason in bad],
        cached=False,
    )
