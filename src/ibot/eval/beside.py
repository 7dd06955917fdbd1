"""Records of baselines, to be shown beside those of a network.

What a baseline reaches depends on the architecture and the images, not on the weights: its records
are kept in the cache, beside its features, and serve every network that asks for the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ibot.errors import ConfigError, IbotError, UserError
from ibot.eval.baselines import in_place
from ibot.eval.context import Context
from ibot.eval.features.entry import disk_errors
from ibot.eval.gained import TITLES
from ibot.eval.registry import EVALUATIONS
from ibot.models.plain import MOST_BYTES, Plain, bytes_of_pixels
from ibot.system.distributed import any_true
from ibot.system.jsonl import append_jsonl, write_jsonl
from ibot.system.processes import said_once
from ibot.system.records import BESIDE, read_records
from ibot.system.watch import from_all
from ibot.types import ResultRecord
from ibot.words import counted

log = logging.getLogger("ibot")


def check_baselines(name: str, wanted: str) -> None:
    """Raise ConfigError for baselines that mean nothing in an evaluation."""
    if wanted in ("auto", "none"):
        return
    known = EVALUATIONS[name].beside.names
    if lacking := [part for part in wanted.split(",") if part not in known]:
        raise ConfigError(
            f"{name} is not shown beside '{lacking[0]}'",
            why="that means nothing there",
            fix=f"--baselines {','.join(known)}" if known else "--baselines none",
        )


def measure_beside(
    context: Context,
    name: str,
    settings: Any,
    wanted: str,
    own: Sequence[ResultRecord],
    known: Collection[tuple[str, str]] = (),
) -> list[ResultRecord]:
    """Records of the baselines that are `wanted` and apply, appended to those in the folder.

    Each stands beside the network of `context`, whose records are `own`. A baseline that fails is
    told and left out: the network's numbers are there. `known`: pairs of `asked` and
    `weights_hash` of records that are in the folder already; those baselines are passed over.
    Raises UserError where one fails in some processes only.
    """
    beside = EVALUATIONS[name].beside
    if beside.own_pixels and settings.features == "pixels":
        return []  # the network is not looked at
    plans: list[_Plan] = []
    chosen = beside.chosen(wanted)
    unasked = wanted == "auto" and beside.of_whole_images and "pixels" in chosen
    if unasked and _too_large(context, name, own):
        chosen = tuple(baseline for baseline in chosen if baseline != "pixels")
    for baseline in chosen:
        with _failing_alike(name, baseline):
            plan = _Plan.of(context, name, settings, baseline, own)
            if (plan.mark, context.weights_hash) not in known:
                plans.append(plan)
    found = []
    while plans:
        plan, *plans = plans
        with _failing_alike(name, plan.baseline):
            records = plan.kept or plan.measured(name, plans)
            found += [_of(context, record) for record in records]
    if context.processes.is_main and found:
        append_jsonl(context.out / BESIDE, *map(asdict, found))
    return found


def _too_large(context: Context, name: str, own: Sequence[ResultRecord]) -> bool:
    """Whether pixels of the images of a network's records, `own`, would fill the cache; says so."""
    images = max((record.num_train + record.num_val for record in own), default=0)
    needed = bytes_of_pixels(images, len(context.loaded.config.channels))
    if needed > MOST_BYTES:
        with said_once():
            log.warning(
                "%s: not shown beside pixels, whose rows of %s would take %.1f GiB of the cache: "
                "--baselines pixels asks for them",
                name,
                counted(images, "image"),
                needed / 2**30,
            )
    return needed > MOST_BYTES


@contextmanager
def _failing_alike(name: str, baseline: str) -> Iterator[None]:
    """What fails inside is told and passed over. Raises UserError unless it fails everywhere."""
    problem = ""
    try:
        yield
    except IbotError as error:
        problem = error.what
    votes = from_all(f"{name} beside {baseline}", problem)
    if any(votes) and not all(votes):
        why = next(filter(None, votes))
        raise UserError(f"{TITLES[baseline]} failed in some processes only", why=why)
    if problem:
        with said_once():
            log.warning("%s: not shown beside %s: %s", name, TITLES[baseline], problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One baseline in one evaluation."""

    baseline: str
    there: Context
    """With the baseline in the place of the network."""
    settings: Any
    mark: str
    kept: list[ResultRecord]
    """What the cache holds of it."""

    @classmethod
    def of(
        cls,
        context: Context,
        name: str,
        settings: Any,
        baseline: str,
        own: Sequence[ResultRecord],
    ) -> _Plan:
        """Records that are kept count if they are of as many images as the network's, `own`: those
        that could not be read may have come back.
        """
        by_setting = EVALUATIONS[name].beside.own_pixels and baseline == "pixels"
        there = in_place(context, "random" if by_setting else baseline)
        there = replace(there, baseline=baseline)
        settings = replace(settings, features="pixels") if by_setting else settings
        mark = there.mark(name, settings)
        with disk_errors(there.cache):
            kept = read_records(_file(there, name, mark))
        if any_true(_counts(kept) != _counts(own)):
            kept = []
        return cls(baseline=baseline, there=there, settings=settings, mark=mark, kept=kept)

    def measured(self, name: str, later: Sequence[_Plan]) -> list[ResultRecord]:
        """New records, which are kept. Features of `later` ones are made in the same passes."""
        others = [plan.there for plan in later if not plan.kept]
        companions = tuple((other.loaded.backbone, other.weights_hash) for other in others)
        there = replace(self.there, companions=companions, began=time.perf_counter())
        with disk_errors(there.cache):
            there.out.mkdir(parents=True, exist_ok=True)
        found = EVALUATIONS[name].load()(there, self.settings)
        records = [replace(record, asked=self.mark) for record in found]
        plain = there.loaded.backbone
        if isinstance(plain, Plain):
            records = [replace(record, architecture=str(plain)) for record in records]
        if there.processes.is_main:
            file = _file(there, name, self.mark)
            with disk_errors(there.cache):
                file.parent.mkdir(exist_ok=True)
                write_jsonl(file, map(asdict, records))
        return records


def _file(there: Context, name: str, mark: str) -> Path:
    """Where the records of an evaluation are kept."""
    return there.out / "records" / f"{name}-{mark}.jsonl"


def _counts(records: Sequence[ResultRecord]) -> set[tuple[int, int]]:
    return {(record.num_train, record.num_val) for record in records}


def _of(context: Context, record: ResultRecord) -> ResultRecord:
    """A record as it stands beside the network of `context`."""
    return replace(
        record, weights=context.weights, key=context.key, weights_hash=context.weights_hash
    )
