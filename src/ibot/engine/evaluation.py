"""Evaluations on the way: the records, and the guard against features that get worse."""

from __future__ import annotations

from ibot.engine.trainer import Trainer
from ibot.errors import TrainingStopped
from ibot.system.distributed import any_true
from ibot.system.records import RESULTS, read_records
from ibot.types import ResultRecord


def run_evaluation(trainer: Trainer) -> None:
    """k-NN of the teacher; all processes share its work, the main one keeps the records."""
    if trainer.evaluate is None:
        return
    fallen = ""
    records = trainer.evaluate(trainer.model.teacher.backbone, trainer.state.step)
    if trainer.processes.is_main:
        for record in records:
            trainer.run.result(record)
            trainer.board.scalars({record.metric: record.value}, trainer.state.step)
            trainer.progress.message(
                f"step {trainer.state.step}: {record.metric} {record.value:.1f}"
            )
            fallen = fallen or fallen_below_start(trainer, record)
    if any_true(bool(fallen), trainer.device):
        raise TrainingStopped(
            "the features got worse than those it started from",
            why=fallen or "k-NN on the main process",
            fix="lower optim.lr, raise method.momentum, lengthen train.head_warmup; or "
            "evaluate.guard=0 to go on",
        )


def was_evaluated(trainer: Trainer) -> bool:
    """Whether this step has a record from before an interruption; all get the main one's word."""
    known = read_records(trainer.run.path / RESULTS) if trainer.processes.is_main else []
    return any_true(any(r.step == trainer.state.step for r in known), trainer.device)


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
