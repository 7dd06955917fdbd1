"""Pairs of patches across the two global views, for the dense alternatives to masked prediction
(paper appendix E).

Nothing is hidden. By position, a patch of one view is paired with that of the other view whose
centre is nearest in the image, as long as its own centre lies in the other view; by feature, every
patch takes part and the teacher finds the partner (`ibot.method.model.most_similar`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ibot.types import Masks, ViewParams


def make_pairs(
    match: Literal["position", "feature"], params: ViewParams, grid: tuple[int, int]
) -> Masks:
    """Patches in the loss of the two global views of each image, and for "position" their partners.

    grid: rows and columns of patches of a global view.
    """
    batch, cells = len(params.box), grid[0] * grid[1]
    if match == "feature":
        used, partner = np.ones((2, batch, cells), dtype=bool), None
    else:
        used, partner = _nearest_places(params, grid)
    # A view without overlap counts as zero, like a view without a mask.
    count = np.maximum(used.sum(axis=-1, keepdims=True), 1)
    weight = np.broadcast_to(1 / count, used.shape)[used].astype(np.float32)
    return Masks(
        map=torch.zeros(used.shape, dtype=torch.bool),
        index=torch.from_numpy(np.flatnonzero(used)),
        weight=torch.from_numpy(weight),
        target=None if partner is None else torch.from_numpy(partner[used]),
    )


def _nearest_places(
    params: ViewParams, grid: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Of each patch [2, B, N]: is its centre in the other view, and the flat nearest patch."""
    box = np.moveaxis(params.box[:, :2].astype(np.float64), 1, 0)  # [2, B, 4]
    flip, upside_down, turn = (
        moved[:, :2].T[..., None, None]
        for moved in (params.flip, params.vertical_flip, params.turn)
    )
    rows, columns = grid
    top, left, height, width = np.moveaxis(box[..., None, None], 2, 0)  # each [2, B, 1, 1]
    down, across = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
    # Back through the turn, then the flips, into the box; turned views are square.
    down, across = (
        np.select([turn == 1, turn == 2, turn == 3], [across, rows - down, rows - across], down),
        np.select(
            [turn == 1, turn == 2, turn == 3], [columns - down, columns - across, down], across
        ),
    )
    y = top + height * np.where(upside_down, rows - down, down) / rows
    share = across / columns
    x = left + width * np.where(flip, 1 - share, share)
    # In the units of the other view's patches the nearest one is the one that the centre falls
    # into.
    row = (y - top[::-1]) / height[::-1] * rows
    row = np.where(upside_down[::-1], rows - row, row)
    place = (x - left[::-1]) / width[::-1]
    column = np.where(flip[::-1], 1 - place, place) * columns
    turns = [turn[::-1] == k for k in (1, 2, 3)]
    row, column = (
        np.select(turns, [columns - column, rows - row, column], row),
        np.select(turns, [row, columns - column, rows - row], column),
    )
    used = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    inside = np.floor(row).astype(np.int64) * columns + np.floor(column).astype(np.int64)
    batch = box.shape[1]
    other = np.arange(2)[::-1, None] * batch + np.arange(batch)  # the other view of each image
    start = other * (rows * columns)
    return used.reshape(2, batch, -1), (inside + start[..., None, None]).reshape(2, batch, -1)
