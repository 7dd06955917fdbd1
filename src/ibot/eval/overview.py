"""What several evaluations of a network say, in few lines: for who reads no tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ibot.eval.gained import TITLES, beside, sign
from ibot.eval.registry import lower_is_better
from ibot.types import ResultRecord

QUESTIONS = {
    "classes": ("knn", "logistic", "linear"),
    "fine-tuned": ("finetune", "transfer"),
    "few labels": ("semi",),
    "groups": ("cluster",),
    "similar images": ("retrieval",),
    "copies": ("copy_detection",),
    "patches": ("match",),
    "segments": ("dense_knn", "segmentation"),
    "objects": ("detection",),
    "videos": ("video_segmentation",),
}
"""Kinds of question, and the evaluations that answer them in one unit. Tests of a classifier answer
each its own."""
NAMED = 4
"""Evaluations of a kind of failure that are named; the others are counted."""


def overview(
    found: Mapping[str, Sequence[ResultRecord]],
    failed: Mapping[str, str],
    skipped: Sequence[str],
    rest: Path,
) -> list[str]:
    """Five lines: what is better than what has learnt nothing, what is not, the best figures, what
    was not measured, and where the rest is.

    Args:
        found: records by evaluation: those of the network, then those of its baselines.
        failed: why evaluations failed.
        skipped: those that were left out as asked.
        rest: file of the records.
    """
    above, others, alone = _apart(found)
    compared = len(above) + len(others)
    none = "nothing that can be told from what has learnt nothing"
    said = "; ".join(above) or (none if compared else "unknown: nothing stands beside a baseline")
    others += [f"beside nothing: {', '.join(alone)}"] if alone else []
    return [
        f"learnt      {said}",
        f"not learnt  {'; '.join(others) or 'nothing'}",
        f"best        {'; '.join(_best(found)) or 'nothing was measured'}",
        f"not run     {'; '.join(_lacking(failed, skipped)) or 'nothing: all that there is'}",
        f"rest        tables below; records in {rest}; side by side: ibot results {rest.parent}",
    ]


def _apart(
    found: Mapping[str, Sequence[ResultRecord]],
) -> tuple[list[str], list[str], list[str]]:
    """Evaluations whose first row is better than all its baselines, the others, and those without
    any.
    """
    above, others, alone = [], [], []
    for name, records in found.items():
        own = [record for record in records if not record.baseline]
        known = beside(own, records[len(own) :], 0) if own else {}
        if not known:
            alone.append(name)
            continue
        turn = -1 if _low(own[0]) else 1
        sides = {title: turn * sign(own[0], other) for title, other in known.items()}
        nearest = max(known.values(), key=lambda record: turn * record.value)
        gap = f"{abs(own[0].value - nearest.value):.1f}"
        if min(sides.values()) > 0:
            above.append(f"{name} (+{gap} over {TITLES[nearest.baseline]})")
            continue
        same = [TITLES[title] for title, side in sides.items() if side == 0]
        worse = [TITLES[title] for title, side in sides.items() if side < 0]
        said = [f"as {' and '.join(same)}"] if same else []
        said += [f"worse than {' and '.join(worse)}"] if worse else []
        others.append(f"{name} ({', '.join(said)})")
    return above, others, alone


def _best(found: Mapping[str, Sequence[ResultRecord]]) -> list[str]:
    """The best first row of each kind of question, with its evaluation."""
    kinds = {name: kind for kind, names in QUESTIONS.items() for name in names}
    first: dict[str, ResultRecord] = {}
    for name, records in found.items():
        own = [record for record in records if not record.baseline][:1]
        for record in own:
            kind = kinds.get(name, name)
            known = first.get(kind)
            if known is None or record.value > known.value:
                first[kind] = record
    return [
        f"{kind} {record.value:.1f}{' (lower is better)' if _low(record) else ''}"
        + ("" if kind == record.protocol else f" ({record.protocol})")
        for kind, record in first.items()
    ]


def _low(record: ResultRecord) -> bool:
    return lower_is_better(record.protocol, record.metric)


def _lacking(failed: Mapping[str, str], skipped: Sequence[str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in failed.items():
        by_reason.setdefault(reason, []).append(name)
    said = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        said.append(f"{', '.join(names[:NAMED])}{more}: {_brief(reason)}")
    return said + ([f"left out as asked: {', '.join(skipped)}"] if skipped else [])


def _brief(reason: str) -> str:
    """A reason, which stands whole at the end, on one line."""
    return reason if len(reason) <= 60 else f"{reason[:57].rstrip()}..."
