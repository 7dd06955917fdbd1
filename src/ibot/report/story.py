"""What is known of a run from its folder, whatever state it is in.

Nothing is written and nothing locked. The run may still be writing (half lines), have just begun,
be deleted meanwhile, come from a published checkpoint or from an older version: what cannot be
read is missing from the story, and raises no error.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ibot.engine.run import is_in_use
from ibot.errors import UserError
from ibot.report.events import (
    Judged,
    closing_of,
    end_of,
    has_ended,
    last_command,
    pace_of,
    reasons_of,
    resumptions,
    text_of,
    verdicts_of,
    was_guarded,
)
from ibot.report.history import (
    LOGGED,
    Curve,
    evaluation_curves,
    interval_of,
    training_curves,
)
from ibot.report.metrics import METRICS, Metrics, number, read_metrics, rows_of
from ibot.report.records import Entry, read_folder
from ibot.report.settings import Setting, settings_of_run
from ibot.report.table import side_by_side
from ibot.system.records import RESULTS, read_records
from ibot.types import ResultRecord
from ibot.words import encodable

State = Literal["running", "ended", "none"]
"""none: nothing has been logged yet, or it is no run."""
WRITTEN = (METRICS, RESULTS, "events.jsonl", "config.json")
"""Files whose change is news of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What is known of a run."""

    run: Path
    state: State
    config: Mapping[str, Any]
    """As config.json has it, without the command; empty where there is none."""
    command: str
    """That of the last start."""
    first_command: str
    """By which the folder was made."""
    settings: Sequence[Setting]
    reasons: Sequence[str]
    """Why auto, or a recipe for few images, chose what it did."""
    provenance: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    metrics: Metrics
    curves: Sequence[Curve]
    """Of the evaluations on the way first, then of the training."""
    verdicts: Sequence[Judged]
    records: Sequence[ResultRecord]
    """Of the training itself, in order of its steps."""
    entries: Sequence[Entry]
    """All results in and below the folder, those of a training at its last step."""
    unread: str
    """Why results cannot be read; empty where they can."""
    bad_files: Sequence[tuple[str, str]]
    """(name, reason)."""
    checkpoints: Sequence[str]
    """Names of complete ones, oldest first."""
    updated: str
    """When the folder last changed, as 2026-01-31T12:00:00; empty where nothing is known."""

    @property
    def step(self) -> int:
        """Steps done, as far as they are logged."""
        return int(number(self.metrics.last.get("step")) or 0)

    @property
    def images_seen(self) -> int:
        """By then."""
        return int(self.metrics.images[-1]) if self.metrics.images else 0

    @property
    def batch(self) -> int:
        """Images of a step."""
        return batch_of(self.config)

    @property
    def timed(self) -> tuple[float, float]:
        """Seconds of the logged steps, and their images.

        They are not all images seen where the first steps were another program's, or left no log.
        """
        if not self.metrics.images:
            return 0.0, 0.0
        seen = [step * self.batch for step in resumptions(self.events)]
        before = max((images for images in seen if images < self.metrics.images[0]), default=0.0)
        return self.metrics.seconds(before), self.metrics.images[-1] - before

    @property
    def pace(self) -> str:
        """What set the pace of the training; empty while it runs, and for those of before."""
        return pace_of(self.events)

    @property
    def end(self) -> Mapping[str, Any] | None:
        """The event that ended the run; None while it goes on, or where it just ceased."""
        return end_of(self.events)

    @property
    def closing(self) -> list[str]:
        """What was said at its end of what it gained; empty where it has trained on since."""
        return closing_of(self.events, self.step)

    @property
    def guarded(self) -> bool:
        """Whether its own guard ended it, as features got worse than at the start."""
        return was_guarded(self.events)


def story(run: Path) -> Story:
    """What is known of a run. Raises nothing, whatever lies, or no longer lies, in its folder."""
    config, provenance = _json(run / "config.json"), _json(run / "provenance.json")
    first_command = text_of(config.pop("command", ""))
    events = [*rows_of(run / "events.jsonl")]
    command = last_command(events) or first_command
    batch = batch_of(config)
    metrics = read_metrics(run, batch, LOGGED)
    records = _own_records(run)
    entries, unread = _entries(run)
    return Story(
        run=run,
        state=_state(run, config, events),
        config=config,
        command=command,
        first_command=first_command,
        settings=settings_of_run(config, command),
        reasons=reasons_of(events),
        provenance=provenance,
        events=events,
        metrics=metrics,
        curves=[*evaluation_curves(records, batch), *training_curves(metrics)],
        verdicts=verdicts_of(events, batch),
        records=records,
        entries=entries,
        unread=unread,
        bad_files=_bad_files(run),
        checkpoints=_checkpoints(run),
        updated=_updated(run),
    )


def training(run: Path) -> dict[str, Any]:
    """What `plain` says of the story of a run."""
    return plain(story(run))


def plain(told: Story) -> dict[str, Any]:
    """The training of a run as plain data, as a page shows it and asks for again while it runs.

    Returns:
        state: running, ended or none. curves: [{id, title, unit, level or None, series: [{name,
        points: [[images seen, value], ..]}]}]. verdicts: [{step, kind, evidence, advice}].
        results: [{name, value, low, high, when}], the last of each metric. settings: [[key, value,
        recipe value], ..] that differ. updated: when the folder last changed.
    """
    return {
        "state": told.state,
        "curves": [
            {
                "id": curve.id,
                "title": curve.title,
                "unit": curve.unit,
                "level": curve.level,
                "series": [
                    {"name": series.name, "points": [[*point] for point in series.points]}
                    for series in curve.series
                ],
            }
            for curve in told.curves
        ],
        "verdicts": [
            {
                "step": verdict.step,
                "kind": verdict.kind,
                "evidence": verdict.evidence,
                "advice": verdict.advice,
            }
            for verdict in told.verdicts
        ],
        "results": _results(told.entries),
        "settings": [
            [setting.key, setting.value, setting.recipe or ""]
            for setting in told.settings
            if setting.differs
        ],
        "updated": told.updated,
    }


def batch_of(config: Mapping[str, Any]) -> int:
    """Images of a step; 1 where the settings do not tell."""
    train = config.get("train")
    batch = number(train.get("batch")) if isinstance(train, dict) else None
    return int(batch) if batch and batch >= 1 else 1


def _results(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The last value of each row of the table, with its interval."""
    table = side_by_side(entries)
    several, found = len(table.networks) > 1, []
    for row, title in table.rows.items():
        for column in table.networks:
            record = table.cells.get((row, column))
            if record is None or not math.isfinite(record.value):
                continue
            low, high = interval_of(record) or (None, None)
            network = f" ({', '.join(column[1:])})" if several else ""
            when = encodable(str(record.when or f"step {record.step}"))
            name = encodable(", ".join(title) + network)
            found.append(
                {"name": name, "value": record.value, "low": low, "high": high, "when": when}
            )
    return found


def _state(run: Path, config: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> State:
    if not config and not (run / METRICS).exists():
        return "none"
    # Asked only where it may be: the lock is better left alone.
    if not has_ended(events) and is_in_use(run):
        return "running"
    return "ended" if (run / METRICS).exists() else "none"


def _own_records(run: Path) -> list[ResultRecord]:
    """What the training measured on its way."""
    try:
        records = read_records(run / RESULTS)
    except (OSError, ValueError):
        return []
    own = [record for record in records if isinstance(record.step, int)]
    return sorted(own, key=lambda record: record.step or 0)


def _entries(run: Path) -> tuple[list[Entry], str]:
    """All results below a run, in order of time; else why they cannot be read."""
    try:
        entries = read_folder(run)
    except (UserError, OSError, TypeError, ValueError) as error:
        return [], str(getattr(error, "why", "") or error) if run.is_dir() else ""
    return sorted(entries, key=lambda entry: str(entry.record.when)), ""


def _bad_files(run: Path) -> list[tuple[str, str]]:
    rows = rows_of(run / "bad_files.jsonl")
    return sorted({(text_of(row.get("path")), text_of(row.get("reason"))) for row in rows})


def _checkpoints(run: Path) -> list[str]:
    found = (run / "checkpoints").glob("step_*/state.json")
    return sorted(file.parent.name for file in found)


def _updated(run: Path) -> str:
    changed = [seconds for name in WRITTEN if (seconds := _changed(run / name))]
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(max(changed))) if changed else ""


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _json(file: Path) -> dict[str, Any]:
    """The object that a file holds; an empty one for anything else."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
