"""What a training measured on its way."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ibot.system.records import RESULTS, read_records


class Measured(NamedTuple):
    """The teacher at a step of its training."""

    step: int
    knn: float
    """Accuracy in per cent."""
    effective_rank: float | None
    """None: a version before it was measured."""


def knn_by_step(run: Path) -> list[Measured]:
    """k-NN accuracies of a run, in the order of its steps; those of later evaluations are not."""
    return [
        Measured(record.step, record.value, record.extra.get("effective_rank"))
        for record in read_records(run / RESULTS)
        if record.metric == "knn_top1" and record.step is not None
    ]
