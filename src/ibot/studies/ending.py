"""The end of a training: what it gained is said and kept, and its report is written.

Weights and records are safe by then: nothing here makes a training fail.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ibot.config.resolve import Derived
from ibot.config.schema import Config
from ibot.data.sets.images import Images
from ibot.engine.run import RunFolder
from ibot.errors import IbotError
from ibot.eval.probes.during_training import Probe
from ibot.report.events import closing_of
from ibot.report.metrics import number, read_metrics, rows_of
from ibot.report.run_report import write_report
from ibot.studies.closing import Situation, before, closing
from ibot.studies.compared import (
    Comparison,
    affordable,
    at_the_end,
    keep,
    looks,
    measured,
    metric_of,
    possible,
    still_rising,
)
from ibot.studies.probes import Evaluated
from ibot.studies.settings import Say
from ibot.system.device import prepared
from ibot.system.processes import launched_processes, said_once
from ibot.system.records import RESULTS, read_records
from ibot.types import ResultRecord

log = logging.getLogger("ibot")

PICTURES = 4
"""Images of which the report shows what the network makes of them."""
SPEED = "data-bound"
"""Start of what the health log says of the speed, which is no matter of what was learnt."""


def with_start(
    probe: Probe,
    config: Config,
    folder: Path,
    evaluated: Evaluated,
    derived: Derived,
    device: torch.device,
) -> Probe:
    """`probe`, which before the first step of a training from weights also compares them, as they
    are, with baselines, and says whether training is needed.
    """
    metric = metric_of(evaluated, config)
    names = possible(metric, config, evaluated) if metric else ()
    seen = derived.run_steps * config.train.batch
    known = affordable(looks(metric, names, config, evaluated), seen)

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        records = probe(backbone, step)
        if step or not names or not known:
            return records
        beside = [*measured(config, evaluated, names, 0, device, launched_processes())]
        if launched_processes().is_main:
            keep(folder, beside)
        own = next((record for record in records if record.metric == metric), None)
        if own is not None and beside:
            found = Comparison(now=own, beside={record.baseline: record for record in beside})
            now = situation(config, folder, evaluated, derived)
            with said_once():  # by the progress of the run, which its log keeps
                log.warning("start  %s", before(found, now))
        return records

    return evaluate


def close(
    config: Config, folder: Path, evaluated: Evaluated, derived: Derived, step: int, say: Say
) -> None:
    """Say what a training that has reached `step` gained, keep it, and write its report.

    In the main process, after the others have ended. `say` keeps the lines in the run's log too.
    """
    said: list[str] = []
    with _harmless("what was gained is not said", said):
        with prepared(config.system.device, config.system.threads, False) as device:
            found = at_the_end(config, folder, evaluated, step, device)
        lines = closing(found, situation(config, folder, evaluated, derived, step, found))
        said += [f"gained {lines[0]}", f"means  {lines[1]}"]
        _keep(folder, step, said, found)
    for line in said:
        say(line)
    said = []
    with _harmless("the report is not written", said):
        page = folder / "report.html"
        write_report(folder, page, PICTURES)
        said.append(f"report {page}")
    for line in said:
        say(line)


def close_again(
    config: Config, folder: Path, source: Images, derived: Derived, step: int, say: Say
) -> None:
    """As `close`, of a run that had ended before: what was said then, if anything was."""
    said = closing_of([*rows_of(folder / "events.jsonl")], step)
    for line in said:
        say(line)
    if not said:  # by an older version
        with _harmless("what was gained is not said", said):
            close(config, folder, Evaluated.of(config, source, say), derived, step, say)


@contextmanager
def _harmless(what: str, said: list[str]) -> Iterator[None]:
    """Within, an error is a line for the user."""
    try:
        yield
    except (IbotError, OSError, RuntimeError, ValueError, MemoryError) as error:
        why = error.what if isinstance(error, IbotError) else str(error) or type(error).__name__
        said.append(f"note   {what}: {why}")


def _keep(folder: Path, step: int, said: list[str], found: Comparison | None) -> None:
    """In the run's events."""
    run = RunFolder.again(folder)
    try:
        run.event("closing", step=step, said=said, **(found.numbers() if found else {}))
    finally:
        run.close()


def situation(
    config: Config,
    folder: Path,
    evaluated: Evaluated,
    derived: Derived,
    step: int = 0,
    found: Comparison | None = None,
) -> Situation:
    """What is known of a run at `step`."""
    metrics = read_metrics(folder, config.train.batch, ("agreement", "effective_rank"))
    ranks = [rank for rank in metrics.columns.get("effective_rank", ()) if rank == rank]
    words = str(metrics.last.get("health", "")).split(", ")
    complaints = [word for word in words if word not in ("", "healthy")]
    rising = found is not None and still_rising(read_records(folder / RESULTS), found.now)
    classes = evaluated.source.provenance().get("classes")
    return Situation(
        config=config,
        run=shlex.quote(str(folder)),
        images=len(evaluated.source),
        classes=isinstance(classes, int) and classes > 1,
        left=max(0, derived.total_steps - step),
        rising=rising,
        agreement=number(metrics.last.get("agreement")),
        prototypes=number(metrics.last.get("cls_prototypes_used")),
        rank=ranks[-1] if ranks else None,
        first_rank=ranks[0] if len(ranks) > 1 else None,
        complaints=", ".join(word for word in complaints if not word.startswith(SPEED)),
    )
