"""How the patches of a run's teacher became better and worse, by its records.

Class tokens may improve while patches get worse, which k-NN does not show. What is said here
follows from the records alone, so that a resumed run says the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from ibot.engine.checkpoint import BEST_DENSE
from ibot.engine.verdicts import Verdict
from ibot.types import ResultRecord

METRICS = ("dense_knn_miou", "match_r1")
"""What is measured of patches during a training; the first that there is decides."""
KNN = "knn_top1"
FALL = 3.0
"""Points below the best from which patches are said to be worse: a choice, not measured. All steps
are scored on the same images and views."""


def best_step(records: Sequence[ResultRecord]) -> int | None:
    """The earliest step with the best patches, initial weights aside; None where none is known."""
    scores = {step: value for step, value in _scores(records).items() if step > 0}
    return max(scores, key=lambda step: (scores[step], -step)) if scores else None


def worse_patches(records: Sequence[ResultRecord], *, from_weights: bool) -> Verdict | None:
    """What to say when patches have newly fallen below their best, unless k-NN fell as well.

    records: of a run, in the order of its steps. from_weights: whether it started from trained
    ones; else the initial weights are no measure, as random networks keep much of the pixels.
    """
    scores = {step: value for step, value in _scores(records).items() if step > 0 or from_weights}
    steps = list(scores)
    if len(steps) < 2 or not _fallen(scores, steps) or _fallen(scores, steps[:-1]):
        return None
    now, best = steps[-1], _best(scores, steps)
    metric = _metric(records)
    knn = {r.step: r.value for r in records if r.metric == KNN and r.step is not None}
    beside = ""
    if now in knn and best in knn:
        if knn[now] < knn[best]:
            return None  # all got worse: no news of the patches
        beside = f", while k-NN went from {knn[best]:.1f} to {knn[now]:.1f}"
    return Verdict(
        "patches get worse",
        f"{metric} {scores[now]:.1f}, {scores[best]:.1f} at step {best}{beside}",
        f"For dense tasks take checkpoints/{BEST_DENSE}; to hold the patches lower optim.lr, "
        "shorten train.length, or raise method.patch_weight",
    )


def _fallen(scores: dict[int, float], steps: Sequence[int]) -> bool:
    """Whether the last of `steps` is far below the best of them."""
    return bool(steps) and scores[steps[-1]] < scores[_best(scores, steps)] - FALL


def _best(scores: dict[int, float], steps: Sequence[int]) -> int:
    return max(steps, key=lambda step: (scores[step], -step))


def _metric(records: Sequence[ResultRecord]) -> str:
    known = {record.metric for record in records if record.step is not None}
    return next((metric for metric in METRICS if metric in known), "")


def _scores(records: Sequence[ResultRecord]) -> dict[int, float]:
    """Values by step of the metric that decides, of those that compare with the newest.

    The settings of evaluations may change when a run is resumed.
    """
    metric = _metric(records)
    found = [r for r in records if r.metric == metric and r.step is not None]
    return {
        record.step or 0: record.value
        for record in found
        if (record.settings, record.data) == (found[-1].settings, found[-1].data)
    }
