"""Evaluations on the way: the records, what they say, and the guard against worse features."""

from __future__ import annotations

from collections.abc import Sequence

from ibot.engine.patch_history import best_step, worse_patches
from ibot.engine.tags import EVALUATED
from ibot.engine.trainer import Trainer
from ibot.engine.wrapping import whole_backbone
from ibot.errors import TrainingStopped
from ibot.system.distributed import any_true
from ibot.system.records import RESULTS, read_records
from ibot.types import ResultRecord

MEANING = {
    "knn_top1": " (% of validation images that k-NN names rightly)",
    "match_r1": " (% of patches found again in another view of their image)",
    "dense_knn_miou": " (mIoU of patches named by their neighbours)",
}
"""What is said of a metric where it appears first, before the first step."""


def run_evaluation(trainer: Trainer) -> bool:
    """Evaluate the teacher; all processes share the work, the main one keeps the records.

    Returns, in every process, whether its patches are the best of the run.
    """
    if trainer.evaluate is None:
        return False
    fallen, best = "", False
    backbone = whole_backbone(trainer.model, trainer.config, trainer.device)
    records = trainer.evaluate(backbone, trainer.state.step)
    if trainer.processes.is_main:
        known = [*read_records(trainer.run.path / RESULTS), *records]
        for record in records:
            trainer.run.result(record)
            trainer.board.scalars({record.metric: record.value}, trainer.state.step, EVALUATED)
            meaning = "" if trainer.state.step else MEANING.get(record.metric, "")
            trainer.progress.message(
                f"step {trainer.state.step}: {record.metric} {record.value:.1f}{meaning}"
            )
            fallen = fallen or fallen_below_start(trainer, record)
        best = bool(trainer.state.step) and best_step(known) == trainer.state.step
        say_worse_patches(trainer, known)
    if any_true(bool(fallen)):
        raise TrainingStopped(
            "the features got worse than those it started from",
            why=fallen or "k-NN on the main process",
            fix="lower optim.lr, raise method.momentum, lengthen train.head_warmup; or "
            "evaluate.guard=0 to go on",
        )
    return any_true(best)


def say_worse_patches(trainer: Trainer, known: Sequence[ResultRecord]) -> None:
    """Name patches that got worse in the health log, and to whoever watches."""
    verdict = worse_patches(known, from_weights=bool(trainer.config.train.init))
    if verdict is not None:
        step = trainer.state.step
        trainer.run.verdict(step, verdict)
        trainer.progress.message(f"step {step}: {verdict}")


def was_evaluated(trainer: Trainer) -> bool:
    """Whether this step has a record from before an interruption; all get the main one's word."""
    known = read_records(trainer.run.path / RESULTS) if trainer.processes.is_main else []
    return any_true(any(r.step == trainer.state.step for r in known))


def fallen_below_start(trainer: Trainer, record: ResultRecord) -> str:
    """In words, that k-NN fell `evaluate.guard` points below its first value; else empty."""
    guard = trainer.config.evaluate.guard
    if not guard or record.metric != "knn_top1":
        return ""
    known = read_records(trainer.run.path / RESULTS)
    start = next((r.value for r in known if r.metric == record.metric), record.value)
    if record.value >= start - guard:
        return ""
    trainer.run.event("guard", step=trainer.state.step, start=start, now=record.value)
    return (
        f"k-NN {record.value:.1f} at step {trainer.state.step}, {start:.1f} at the start; "
        f"evaluate.guard={guard:g}"
    )
