"""Short names of the columns of a table: what tells a run from the others, not its whole path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ibot.report.table import Table


def brief_names(table: Table) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Column -> its parts with the end of the run's path that no other run has, and with the name
    of the network where there are several.
    """
    networks = [column for column in table.networks if column not in table.baselines]
    ends = _ends([run for run, *_ in networks])
    several = len({key for _, key, *_ in networks}) > 1
    names: dict[tuple[str, ...], tuple[str, ...]] = {}
    for column in table.networks:
        run, *rest = column
        if column in table.baselines:
            names[column] = (run, *(f"of {ends.get(part[3:], part[3:])}" for part in rest))
        else:
            names[column] = (ends[run], *(rest if several else rest[1:]))
    return names


def _ends(runs: Sequence[str]) -> dict[str, str]:
    """The shortest end of each path that is the end of no other one."""
    parts = {run: Path(run).parts or (run,) for run in runs}
    found = {}
    for run, own in parts.items():
        sizes = range(1, len(own) + 1)
        alone = (
            size
            for size in sizes
            if sum(other[-size:] == own[-size:] for other in parts.values()) == 1
        )
        found[run] = str(Path(*own[-next(alone, len(own)) :]))
    return found
