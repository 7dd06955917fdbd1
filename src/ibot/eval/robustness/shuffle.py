"""Accuracy with blocks of the image shuffled (paper figure 10; spec_evaluation 9.6)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.features.rows import unreadable
from ibot.eval.labelled import LabelledContext
from ibot.eval.robustness.occlude import shuffle_blocks
from ibot.eval.robustness.settings import ShuffleSettings
from ibot.eval.robustness.tested_classifier import (
    classifier_for,
    draw_number,
    head_notes,
    head_settings,
    published_view,
    score_labelled,
)
from ibot.types import ResultRecord

UNSHUFFLED = (1, 1)


def run(context: LabelledContext, settings: ShuffleSettings) -> list[ResultRecord]:
    """One record per grid of blocks that divides the view, the unshuffled images first.

    Each image has its own permutation; in published mode neighbouring images share one.

    Raises:
        ConfigError: a grid without blocks.
        DataError: see `classifier_for`.
    """
    if any(min(grid) < 1 for grid in settings.grids):
        raise ConfigError(
            "grids have at least one row and one column", fix="for example grids=2:2,4:4"
        )
    classifier = classifier_for(context)
    notes = head_notes(context, classifier)
    context = published_view(context)
    asked = dict.fromkeys((UNSHUFFLED, *settings.grids))
    grids = [grid for grid in asked if _divides(grid, context.view.size)]
    left_out = [f"{grid[0]} x {grid[1]}" for grid in settings.grids if grid not in grids]

    def predict(images: Tensor, index: NDArray[np.int64]) -> Tensor:
        """Class in every grid: int64 [b, grids]."""
        draws = draw_number(index, context.mode)
        shuffled = (shuffle_blocks(images, *grid, context.seed, draws) for grid in grids)
        classes = [classifier.logits(changed).argmax(dim=1) for changed in shuffled]
        return torch.stack(classes, dim=1)

    found = score_labelled(context, context.val, predict, "shuffle")
    notes += unreadable(found)
    if left_out:
        height, width = context.view.size
        notes.append(
            f"blocks that do not divide {height} x {width} pixels are left out: "
            + ", ".join(left_out)
        )
    if context.mode == "published":
        notes.append("neighbouring images share a permutation, as in the published runs")
    used = {**plain(settings), **head_settings(classifier)}
    return [
        context.accuracy(
            "shuffle",
            found.rows[:, i] == found.labels,
            found.labels,
            {**used, "grid": [rows, columns], "blocks": rows * columns},
            row=f"{rows} x {columns}",
            notes=notes,
        )
        for i, (rows, columns) in enumerate(grids)
    ]


def _divides(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    return size[0] % grid[0] == 0 and size[1] % grid[1] == 0
