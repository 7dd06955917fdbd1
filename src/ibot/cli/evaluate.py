"""`ibot eval`."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.cli.arguments import (
    COUNT,
    NATURAL,
    SHARE,
    add_cache,
    add_processes,
    add_settings,
    add_weights,
)
from ibot.cli.inputs import of_request
from ibot.cli.parser import Commands
from ibot.config.keeping import EvaluateConfig
from ibot.config.override import settings_of
from ibot.eval.gained import TITLES, beside, gained
from ibot.eval.registry import EVALUATIONS
from ibot.eval.request import Request, choices
from ibot.show.evaluated import draw_evaluated
from ibot.system.records import RESULTS

if TYPE_CHECKING:
    from ibot.eval.evaluate import Outcome
    from ibot.types import ResultRecord

HELP_WIDTH = 78
"""Letters of a line of the settings that end a help text."""


def run(options: argparse.Namespace) -> int:
    """One evaluation: print its table; its records are in results.jsonl."""
    from ibot.eval.evaluate import evaluate

    records = evaluate(
        options.protocol,
        settings=options.settings,
        quiet=options.quiet,
        progress=not options.json,
        **of_request(options),
    )
    _show(records, options)
    return 0


def run_all(options: argparse.Namespace) -> int:
    """Every evaluation that the data allow: what they say in five lines, then their tables.

    What fails is named at the end; it is an error if nothing ran. What is done is shown after an
    interruption too, and the same command goes on.
    """
    from ibot.eval.context import Context
    from ibot.eval.evaluate import evaluate_each, known
    from ibot.eval.opened import opened

    skipped = [name.strip() for name in options.skip.split(",") if name.strip()]
    for name in skipped:
        known(name, "--skip")
    chosen = [name for name in EVALUATIONS if name not in skipped]
    outcomes: list[Outcome] = []
    request = Request(**of_request(options))
    shown = not options.json
    with opened(Context, request, quiet=options.quiet, progress=shown) as context:
        is_main = context.processes.is_main
        each = evaluate_each(context, request, chosen, again=options.again, quiet=options.quiet)
        try:
            for outcome in each:
                outcomes.append(outcome)
                if is_main:
                    _tell(outcome, options)
        finally:
            if is_main and shown:
                _show_all(outcomes, skipped, options)
    failed = _by_reason(outcomes)
    if failed and is_main:
        lines = [f"  {', '.join(names)}: {problem}" for problem, names in failed.items()]
        print("not run:", *lines, sep="\n", file=sys.stderr)
    return 2 if chosen and all(outcome.problem for outcome in outcomes) else 0


def _tell(outcome: Outcome, options: argparse.Namespace) -> None:
    """One line of what an evaluation gave, as soon as it is there; its records where they are asked
    for.
    """
    if outcome.done_before:
        said = f"done before, see {_place(options)}; --again repeats it"
    elif outcome.records and options.json:
        _show(outcome.records, options)
        return
    elif outcome.records:
        first = outcome.records[0]
        said = f"{first.row or first.metric} {first.value:.2f} ({first.seconds:.1f} s)"
    else:
        return
    if not options.quiet:
        print(f"{outcome.name}: {said}", file=sys.stderr)


def _show_all(
    outcomes: Sequence[Outcome], skipped: Sequence[str], options: argparse.Namespace
) -> None:
    """The summary, and the tables of what was measured now; nothing where nothing was."""
    from ibot.eval.overview import overview

    found = {outcome.name: outcome.records for outcome in outcomes if outcome.records}
    failed = {outcome.name: outcome.problem for outcome in outcomes if outcome.problem}
    if found:
        print(*overview(found, failed, skipped, _place(options)), sep="\n")
    for outcome in outcomes:
        if not outcome.done_before:
            _show(outcome.records, options)


def _by_reason(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Evaluations that failed, by what they said."""
    failed: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.problem:
            failed.setdefault(outcome.problem, []).append(outcome.name)
    return failed


def _place(options: argparse.Namespace) -> Path:
    """Where the records are."""
    from ibot.eval.opened import default_out

    return Path(options.out or default_out(Path(options.weights))) / RESULTS


def _show(records: Sequence[ResultRecord], options: argparse.Namespace) -> None:
    from ibot.system.processes import launched_processes

    if not records or not launched_processes().is_main:
        return
    if options.json:
        for record in records:
            print(json.dumps(asdict(record)))
        return
    own = [record for record in records if not record.baseline]
    others, first = records[len(own) :], records[0]
    seen = "".join(f", {size}" for size in filter(None, [_size(first)]))
    print(f"\n{first.protocol}: {first.weights} ({first.key}), {first.mode}{seen}")
    print(_images(first))
    print(table(own, others), end="")
    # The neighbours by which a training judges itself, where they are a row of several.
    if line := gained(own, others, f"k = {EvaluateConfig().k}"):
        print(f"gain: {line}")
    for note in dict.fromkeys(note for record in own for note in record.notes):
        print(f"note: {note}")
    print(f"{own[-1].seconds:.1f} s; records in {_place(options)}")
    if drawn := draw_evaluated(first.protocol, own, _place(options).parent):
        print(f"pictures: {drawn[0]}" + (f" and {len(drawn) - 1} more" if drawn[1:] else ""))


def _size(record: ResultRecord) -> str:
    """Height and width of the view, or the longer side that images had at most; else nothing."""
    size = record.settings.get("size")
    if not isinstance(size, list):
        return ""
    height, width = size
    within = record.settings.get("fit") == "within"
    return f"longer side at most {max(size)}" if within else f"{height}x{width}"


def _images(record: ResultRecord) -> str:
    """What a record was measured on, and what it takes no network to reach."""
    if "largest_class" not in record.data:
        return record.data.get("summary", f"{record.num_val} images")
    return (
        f"{record.num_train} training, {record.num_val} validation images, "
        f"{record.data['classes']} classes; "
        f"always guessing the largest: {record.data['largest_class']:.2f}"
    )


def table(records: Sequence[ResultRecord], others: Sequence[ResultRecord] = ()) -> str:
    """Rows of an evaluation: the score with its interval, baselines, and what else is known of it.

    others: records of the baselines.
    """
    found = [beside(records, others, i) for i in range(len(records))]
    columns = {
        "score": [f"{record.value:.2f}" for record in records],
        "95 % interval": [_span(record.interval) for record in records],
        **{
            title: [_number(one[name].value if name in one else None) for one in found]
            for name, title in TITLES.items()
        },
        "top-5": [_number(record.extra.get("top5")) for record in records],
        "balanced": [_number(record.extra.get("balanced")) for record in records],
        "by chance": [_number(record.extra.get("chance")) for record in records],
        "at the same place": [_number(record.extra.get("same_place")) for record in records],
        "compared at": [str(record.extra.get("compared_at", "")) for record in records],
        "chosen": [record.chosen for record in records],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    names = [record.row or record.metric for record in records]
    lines = [["", *columns], *map(list, zip(names, *columns.values(), strict=True))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(_line(cells, widths) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell to the left, the others to the right."""
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
    return "  ".join(padded).rstrip() + "\n"


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def declare(commands: Commands) -> None:
    """Declare `ibot eval` with a command for each evaluation, and one for all."""
    protocols = commands.add_group(
        "eval",
        summary="evaluate a backbone",
        description="Evaluate a backbone.",
        title="protocols",
        metavar="PROTOCOL",
    )
    for name, protocol in EVALUATIONS.items():
        parser = protocols.add(name, protocol.summary, run)
        parser.set_defaults(protocol=name)
        parser.allow_abbrev = False  # --k would be --key, where the setting k is meant
        parser.epilog = _listed(protocol.settings)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        _declare_arguments(parser)
        add_settings(parser, "key=value", "settings of the protocol, listed below")
    every = protocols.add("all", "every protocol that the data allow", run_all)
    _declare_arguments(every)
    again = "repeat what has records of the same evaluation"
    every.add_argument("--again", action="store_true", help=again)
    every.add_argument("--skip", default="", metavar="NAME[,NAME]", help="protocols to leave out")


def _declare_arguments(parser: argparse.ArgumentParser) -> None:
    """What all evaluations take."""
    add_weights(parser)
    add_processes(parser)
    data = (
        "class folders, with train/ and val/; a list (CSV, text, Parquet); tar or Parquet files, a "
        "Hugging Face folder, .npy or zarr with labels; or NAME:DIR such as cifar10:DIR; for the "
        "dense protocols, retrieval and copies see docs/dense.md"
    )
    parser.add_argument("--data", default="", metavar="DATA", help=data)
    val_data = "validation images, where --data has none"
    parser.add_argument("--val-data", default="", metavar="DATA", help=val_data)
    images = "images whose annotations lie elsewhere, in place of --data"
    parser.add_argument("--images", default="", metavar="DIR", help=images)
    labels = "annotations of --images: label maps, masks, or a file"
    parser.add_argument("--labels", default="", metavar="PATH", help=labels)
    split = "set this share aside for validation"
    parser.add_argument("--split", type=SHARE, default=0.0, metavar="S", help=split)
    train = "use N evenly spaced training images"
    parser.add_argument("--max-train", type=COUNT, default=0, metavar="N", help=train)
    val = "use N evenly spaced validation images"
    parser.add_argument("--max-val", type=COUNT, default=0, metavar="N", help=val)
    mode = (
        "clean: choose on held-out training images; published: on the split that is reported, "
        "as the paper's tables"
    )
    parser.add_argument("--mode", choices=choices("mode"), default="clean", help=mode)
    fit = "how images of another shape become square (default: crop)"
    parser.add_argument("--fit", choices=choices("fit"), default="crop", help=fit)
    seed = "of splits, starts and orders"
    parser.add_argument("--seed", type=NATURAL, default=0, metavar="S", help=seed)
    out = "results and states to resume from (default: the run's folder, else results/NAME)"
    parser.add_argument("--out", default="", metavar="DIR", help=out)
    add_cache(parser)
    baselines = (
        "what has learnt nothing, measured too: random (a random start of the same architecture), "
        "pixels, colours; auto: those that cost little (no head is trained long), or none"
    )
    names = "auto|none|NAME[,NAME]"
    parser.add_argument("--baselines", default="auto", metavar=names, help=baselines)
    as_json = "print records instead of a table, those of baselines too"
    parser.add_argument("--json", action="store_true", help=as_json)


def _listed(settings: Any) -> str:
    """Settings with their values, in lines that end between settings or after a comma."""
    listed = "  ".join(f"{key}={value}" for key, value in settings_of(settings))
    lines = textwrap.wrap(
        "settings:  " + listed.replace(",", ", "),
        HELP_WIDTH,
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(line.replace(", ", ",") for line in lines)
