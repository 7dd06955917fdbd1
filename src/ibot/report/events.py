"""What the events of a run say: how it ended, why it is as it is, what was judged of it.

They are rows of events.jsonl, of whatever version; what is not understood is passed over.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ibot.report.metrics import number
from ibot.words import encodable

END = "end"
ENDS = (END, "stopped by signal", "failed")
"""Events after which a run no longer trains, until it starts again."""
CLOSING = "closing"
"""What was said after the end."""

Events = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict of the health log."""

    step: int
    images: float
    """Seen by then."""
    kind: str
    evidence: str
    advice: str


def end_of(events: Events) -> Mapping[str, Any] | None:
    """The event that ended the run; None while it goes on, or where it just ceased.

    A finished run that is started again has nothing to do, unless more was asked for: then it says
    that it resumes.
    """
    before = _of_training(events)
    every = len(before)
    while before and before[-1].get("event") == "start":
        before.pop()
    last = before[-1] if before else {}
    ends = ENDS if len(before) == every else (END,)
    return last if last.get("event") in ends else None


def was_guarded(events: Events) -> bool:
    """Whether its own guard ended the run, as features got worse than at the start."""
    last = _of_training(events)[-2:]
    return [event.get("event") for event in last] == ["guard", "failed"]


def has_ended(events: Events) -> bool:
    """Whether the run no longer trains, by the last thing that it did."""
    return any(event.get("event") in ENDS for event in _of_training(events)[-1:])


def _of_training(events: Events) -> list[Mapping[str, Any]]:
    """Without what was said after a training."""
    return [event for event in events if event.get("event") != CLOSING]


def closing_of(events: Events, step: int | None = None) -> list[str]:
    """What was said at the end of the training, of what it gained; empty where nothing was, or not
    at this step.
    """
    found = [event for event in events if event.get("event") == CLOSING]
    if not found or step not in (None, number(found[-1].get("step"))):
        return []
    said = found[-1].get("said")
    return [text_of(line) for line in said] if isinstance(said, list) else []


def last_command(events: Events) -> str:
    """The command of the last start; empty where none is known."""
    starts = [text_of(event.get("command")) for event in events if event.get("event") == "start"]
    return next(filter(None, reversed(starts)), "")


def unlimited(command: str) -> tuple[str, str]:
    """What in a command ends the training before its schedules do, and the command without it;
    empty where its settings lie elsewhere.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return "train.max_steps", ""
    for i, word in enumerate(words):
        option, _, value = word.partition("=")
        if option in ("--steps", "train.max_steps") and (value or option == "--steps"):
            rest = words[i + 1 if value else i + 2 :]
            return option, shlex.join([*words[:i], *rest])
    return "train.max_steps", ""


def resumptions(events: Events) -> list[float]:
    """The steps from which the run went on."""
    steps = [number(event.get("step")) for event in events if event.get("event") == "resume"]
    return [step for step in steps if step is not None]


def reasons_of(events: Events) -> list[str]:
    """Why the last start chose the settings that it did."""
    found = [event.get("reasons") for event in events if event.get("event") == "choices"]
    last = found[-1] if found else None
    return [text_of(reason) for reason in last] if isinstance(last, list) else []


def pace_of(events: Events) -> str:
    """What set the pace of the training, by its end; empty where that was not measured."""
    told = [text_of(event.get("text")) for event in events if event.get("event") == "pace"]
    return told[-1].rstrip(".") if told else ""


def verdicts_of(events: Events, batch: int) -> list[Judged]:
    """Those of the run's whole life in the order of their steps, each once.

    A resumed run may have come to one again.
    """
    found = {}
    for event in events:
        step = number(event.get("step"))
        if event.get("event") != "health" or step is None:
            continue
        kind = text_of(event.get("verdict"))
        evidence, advice = text_of(event.get("evidence")), text_of(event.get("advice"))
        if not evidence:  # of an earlier version: "kind: evidence. advice"
            text = text_of(event.get("text")).removeprefix(f"{kind}: ")
            evidence, _, advice = text.partition(". ")
        found[int(step), kind] = Judged(int(step), step * batch, kind, evidence, advice)
    return [found[key] for key in sorted(found)]


def text_of(value: object) -> str:
    """Text that any file and page takes; an empty one for anything else."""
    return encodable(value) if isinstance(value, str) else ""
