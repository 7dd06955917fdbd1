"""Evaluations by name, from a script, a notebook or the command: records out, and kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ibot.config.override import assign
from ibot.config.reading import PICTURES
from ibot.data.sets.same_channels import named
from ibot.errors import IbotError, UserError
from ibot.eval.beside import check_baselines, measure_beside
from ibot.eval.context import Context
from ibot.eval.opened import opened, with_data_of
from ibot.eval.registry import EVALUATIONS
from ibot.eval.request import Request
from ibot.system.distributed import check_equal
from ibot.system.jsonl import append_jsonl
from ibot.system.places import make_writable
from ibot.system.records import BESIDE, RESULTS, read_records
from ibot.system.watch import from_all
from ibot.types import ResultRecord


def evaluate(
    name: str,
    weights: str | Path,
    data: str | Path = "",
    *,
    settings: str | Sequence[str] = (),
    quiet: bool = False,
    progress: bool = True,
    baselines: str = "none",
    **options: Any,
) -> list[ResultRecord]:
    """Evaluate a network on images, as `ibot eval NAME WEIGHTS --data DATA` does.

        for record in ibot.evaluate("knn", "runs/mine", "photos", settings=["k=5,20"]):
            print(record.row, record.value)

    Features come from the cache where they are there; records are also appended to results.jsonl in
    the folder `out`, where an interrupted evaluation finds what it has done.

    Args:
        name: of the evaluation, as `ibot eval --help` lists them.
        weights: a run, a checkpoint folder or a file of weights.
        data: images, in any form that `ibot eval` takes; most evaluations need labelled ones.
            Empty where the options `images` and `labels` name them.
        settings: `key=value` of the evaluation, one or several.
        quiet: neither notes nor progress on the error output.
        progress: show it, unless `quiet`.
        baselines: what has learnt nothing and is measured too: "random,pixels,colours" or some of
            them, or "auto": those that cost little in this evaluation, as the command does.
        **options: further fields of `ibot.eval.request.Request`, such as `val_data` or `device`.

    Returns:
        The records of the network; then those of baselines, which have a `baseline` and are
        appended to baselines.jsonl.

    Raises:
        UserError: and its kinds, for what a user can mend. TypeError: unknown options.
    """
    settings = [settings] if isinstance(settings, str) else settings
    known(name)
    given(name, EVALUATIONS[name].settings, settings)  # mistakes are told before anything is loaded
    request = Request.of(weights, data, {**options, "baselines": baselines})
    check_baselines(name, baselines)
    _require_size_used(name, request.size)
    kind = EVALUATIONS[name].context()
    with opened(kind, request, quiet=quiet, progress=progress) as context:
        make_writable(context.out, RESULTS)  # what fails shall fail before the work
        chosen = given(name, EVALUATIONS[name].defaults(context), settings)
        own = measure(context, name, chosen, context.mark(name, chosen))
        return [*own, *measure_beside(context, name, chosen, baselines, own)]


def known(name: str, option: str = "") -> None:
    """Raise UserError for the name of no evaluation; `option`: where it was given."""
    if name not in EVALUATIONS:
        where = f"{option}: " if option else ""
        what = f"{where}there is no evaluation '{name}'"
        raise UserError(what, fix=f"known: {', '.join(EVALUATIONS)}")


def _require_size_used(name: str, size: int) -> None:
    """Raise UserError for a size of the view where a setting says how large images are seen."""
    setting = EVALUATIONS[name].sized_by
    if size and setting:
        raise UserError(
            f"{name} does not use --size {size}",
            why=f"its setting {setting} says how large images are seen",
            fix=f"{setting}={size}",
        )


def given(name: str, settings: Any, texts: Sequence[str]) -> Any:
    """Settings of an evaluation with those that a user gave. Raises ConfigError."""
    return assign(settings, texts, f"ibot eval {name} --help lists them")


def measure(context: Context, name: str, settings: Any, mark: str) -> list[ResultRecord]:
    """Run an evaluation and append its records, with the mark that `Context.mark` gave.

    All are appended or none: together they say that it is done.
    """
    if EVALUATIONS[name].pictures and context.reading != PICTURES:
        raise UserError(
            f"{name} takes colour pictures of 8 bits",
            why=f"the network reads {named(context.loaded.config.channels)} as levels",
            fix="knn, linear, logistic, cluster, match and retrieval take images of any channels",
        )
    found = [replace(record, asked=mark) for record in EVALUATIONS[name].load()(context, settings)]
    if context.processes.is_main:
        append_jsonl(context.out / RESULTS, *map(asdict, found))
    return found


Marked = dict[tuple[str, str], list[ResultRecord]]
"""Records by what was asked and the hash of the weights."""


def _done(out: Path) -> tuple[dict[str, list[ResultRecord]], Marked]:
    """What a folder of results holds: records by their mark, and those of baselines, which stand
    beside weights (`measure_beside`).
    """
    done: dict[str, list[ResultRecord]] = {}
    for record in read_records(out / RESULTS):
        done.setdefault(record.asked, []).append(record)
    beside: Marked = {}
    for record in read_records(out / BESIDE):
        beside.setdefault((record.asked, record.weights_hash), []).append(record)
    return done, beside


def _stored(own: Sequence[ResultRecord], beside: Marked) -> list[ResultRecord]:
    """The last records of each baseline that stand beside a network's, `own`."""
    same = [_kind(record) for record in own]
    found: dict[str, list[ResultRecord]] = {}
    for records in beside.values():
        if [_kind(record) for record in records] == same:
            found[records[0].baseline] = records
    return [record for records in found.values() for record in records]


def _kind(record: ResultRecord) -> tuple[Any, ...]:
    counts = record.num_train, record.num_val
    return record.protocol, record.metric, record.weights_hash, record.mode, record.seed, *counts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of several evaluations."""

    name: str
    records: tuple[ResultRecord, ...] = ()
    """Of the network, then of the baselines beside it."""
    problem: str = ""
    """Why it failed."""
    done_before: bool = False
    """Its records were in the folder of the results."""


def evaluate_each(
    context: Context,
    request: Request,
    names: Sequence[str],
    *,
    again: bool = False,
    quiet: bool = False,
) -> Iterator[Outcome]:
    """Each evaluation with its default settings; what fails is said in its outcome.

    `context` is what `request` opened, of any kind. Each evaluation gets the same network with the
    images that it needs; those that cannot be opened for it are a problem of its outcome.

    What has records of the same weights, images, settings, mode, seed and version in the folder of
    the results is not repeated unless `again`; so an interrupted series goes on. Raises UserError
    where an evaluation fails in some processes only: the next one would leave them alone.
    """
    make_writable(context.out, RESULTS)
    done, beside = ({}, {}) if again else _done(context.out)
    marks = [*done, *(mark for mark, _ in beside)]
    check_equal({"the evaluations that are done": sorted(filter(None, marks))})
    opened_as, told = {type(context): context}, set[str]()
    for name in names:
        problem, records = "", []
        try:
            kind = EVALUATIONS[name].context()
            if kind not in opened_as:
                opened_as[kind] = with_data_of(context, kind, request, told, quiet=quiet)
            context = replace(opened_as[kind], began=time.perf_counter())
            settings = EVALUATIONS[name].defaults(context)
            mark = context.mark(name, settings)
            own = done.get(mark) or measure(context, name, settings, mark)
            more = measure_beside(context, name, settings, request.baselines, own, beside)
            if mark in done and not more:
                yield Outcome(name, (*own, *_stored(own, beside)), done_before=True)
                continue
            records = [*own, *more]
        except IbotError as error:
            problem = error.what
        votes = from_all(name, problem)
        if any(votes) and not all(votes):
            raise UserError(f"{name} failed in some processes only", why=next(filter(None, votes)))
        yield Outcome(name, tuple(records), problem)
