"""`ibot eval`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibot
from ibot.config.override import assign
from ibot.errors import IbotError, UserError
from ibot.eval.registry import EVALUATIONS
from ibot.types import ResultRecord

if TYPE_CHECKING:
    from ibot.data.sets.images import LabelledImages
    from ibot.eval.context import Context
    from ibot.eval.features.views import View
    from ibot.models.backbone import BackboneModule
    from ibot.weights.read import Loaded

log = logging.getLogger("ibot")

LINE_SECONDS = 30
"""Between two lines of progress where there is no terminal."""
MAX_BATCH, MAX_TOKENS = 256, 2**17
"""Images and tokens of a forward pass: large views go through the network in smaller batches."""


def run(options: argparse.Namespace) -> int:
    """One evaluation: print its table, append its records to results.jsonl."""
    protocol = EVALUATIONS[options.protocol]
    advice = f"ibot eval {options.protocol} --help lists them"
    assign(
        protocol.settings, options.settings, advice
    )  # a mistake is told before anything is loaded
    with evaluation(options) as context:
        settings = assign(protocol.defaults(context), options.settings, advice)
        _report(
            context,
            protocol.load()(context, settings),
            options,
            asked(context, options.protocol, settings),
        )
    return 0


def run_all(options: argparse.Namespace) -> int:
    """Every evaluation that the data allow; what fails is named at the end, and is an error if
    nothing ran.

    What has records of the same weights, images, settings, mode, seed and version in the folder of
    the results is not repeated unless --again is given; the same command goes on after an
    interruption.
    """
    from ibot.system.distributed import check_equal
    from ibot.system.jsonl import read_jsonl
    from ibot.system.watch import from_all

    skipped = [name.strip() for name in options.skip.split(",") if name.strip()]
    if unknown := [name for name in skipped if name not in EVALUATIONS]:
        raise UserError(
            f"--skip {unknown[0]}: there is no such protocol",
            fix=f"known: {', '.join(EVALUATIONS)}",
        )
    failed: list[str] = []
    chosen = [name for name in EVALUATIONS if name not in skipped]
    with evaluation(options) as context:
        known = (
            set()
            if options.again
            else {row.get("asked") for row in read_jsonl(context.out / "results.jsonl")}
        )
        check_equal({"the evaluations that are done": sorted(filter(None, known))})
        for name in chosen:
            problem = ""
            try:
                context = replace(context, began=time.perf_counter())
                settings = EVALUATIONS[name].defaults(context)
                if (mark := asked(context, name, settings)) in known:
                    if context.processes.is_main and not options.quiet:
                        place = context.out / "results.jsonl"
                        print(
                            f"{name}: done before, see {place}; --again repeats it", file=sys.stderr
                        )
                    continue
                _report(context, EVALUATIONS[name].load()(context, settings), options, mark)
            except IbotError as error:
                problem = error.what
            # What only one process meets would leave it alone with the next protocol: then all of
            # them end.
            votes = from_all(name, problem)
            if any(votes) and not all(votes):
                raise UserError(
                    f"{name} failed in some processes only", why=next(filter(None, votes))
                )
            if problem:
                failed.append(f"{name}: {problem}")
    if failed and context.processes.is_main:
        print("not run:\n  " + "\n  ".join(failed), file=sys.stderr)
    return 2 if chosen and len(failed) == len(chosen) else 0


def asked(context: Context, protocol: str, settings: object) -> str:
    """Hash of an evaluation: with the same one it would give what it gave."""
    about = {
        "settings": repr(settings),
        "exif_orientation": context.exif_orientation,
        "max_pixels": context.max_pixels,
        "ibot": ibot.__version__,
    }
    return context.identity(protocol, about)


@contextmanager
def evaluation(options: argparse.Namespace) -> Iterator[Context]:
    """Load network and images, join the other processes, and leave them at the end.

    Raises what a user can mend as UserError, and OSError for places that cannot be written.
    """
    from ibot.data.sets.classes import absent_note
    from ibot.data.sets.open import open_labelled
    from ibot.data.sets.variants import count_shared
    from ibot.eval.context import Context
    from ibot.eval.features.cache import weights_hash
    from ibot.system.device import choose_device
    from ibot.system.distributed import check_equal, joined
    from ibot.system.places import make_writable
    from ibot.system.processes import said_once
    from ibot.system.watch import said_if_interrupted
    from ibot.weights.read import load

    device = choose_device(options.device)
    if device.type == "mps":
        raise UserError("evaluations compute in float64, which mps lacks", fix="use --device cpu")
    train, val = open_labelled(
        options.data,
        options.val_data,
        split=options.split,
        seed=options.seed,
        exif_orientation=options.exif_orientation,
        max_pixels=options.max_pixels,
    )
    told = [*train.notes, *val.notes, *filter(None, [absent_note(val.labels, val.classes)])]
    train, val = _evenly(train, options.max_train), _evenly(val, options.max_val)
    with said_once():
        loaded = load(
            options.weights, options.key, heads=options.heads, allow_partial=options.allow_partial
        )
    view = _view(options, loaded)
    out = Path(options.out) if options.out else default_out(Path(options.weights))
    with joined(device) as processes:
        print_notes(dict.fromkeys(told), options.quiet or not processes.is_main)
        if processes.is_main and (shared := count_shared(train, val)):
            log.warning("%d of %d validation images are training images", shared, len(val))
        make_writable(out, "results.jsonl")  # what fails shall fail before the work
        hashed = weights_hash(loaded)
        sets = {
            "the training images": train.fingerprint(),
            "the validation images": val.fingerprint(),
        }
        with said_once():
            cache = cache_folder(options.cache, out)
        # Each process writes its part of the features there, and reads those of all.
        places = {"the folder of the features (--cache)": str(cache)}
        check_equal({"the weights": hashed, **places, **sets})
        loaded.backbone.to(device)
        shown = processes.is_main and not options.quiet and not options.json
        context = Context(
            loaded,
            str(options.weights),
            options.key,
            hashed,
            train,
            val,
            view,
            device,
            cache,
            out,
            options.mode,
            options.seed,
            batch=batch_of(loaded.backbone, view.size),
            workers=options.workers,
            processes=processes,
            data=options.data,
            exif_orientation=options.exif_orientation,
            max_pixels=options.max_pixels,
            counter=counter if shown else lambda name: None,
        )
        kept = f"features in '{context.cache}', states and records in '{out}'"
        with said_if_interrupted(f"the same command goes on from what is done: {kept}"):
            yield context


def _view(options: argparse.Namespace, loaded: Loaded) -> View:
    """The view of `--size` and `--fit`; else that of a stored classifier; else that of the
    training's size.
    """
    from ibot.eval.features.views import View
    from ibot.eval.linear_classifier import load_classifier

    stored = load_classifier(options.weights)
    if (
        stored is not None
        and options.mode == "clean"
        and not options.size
        and options.fit == "crop"
    ):
        return stored.view
    size = (options.size, options.size) if options.size else loaded.size
    if min(loaded.backbone.token_grid(*size)) < 1:
        raise UserError(
            f"--size {options.size} is smaller than a patch",
            fix=f"at least {loaded.backbone.patch_size} pixels",
        )
    return View(size, options.fit, keep=options.mode == "clean")


def batch_of(backbone: BackboneModule, size: tuple[int, int]) -> int:
    """Images of `size` per forward pass, at least one: as many as hold `MAX_TOKENS`, but not more
    than `MAX_BATCH`.
    """
    from ibot.models.swin import SwinTransformer

    rows, columns = backbone.token_grid(*size)
    tokens = rows * columns
    if isinstance(
        backbone, SwinTransformer
    ):  # each earlier stage has four times the tokens of half the width
        tokens *= backbone.patch_size // backbone.embed_patch
    return max(1, min(MAX_BATCH, MAX_TOKENS // tokens))


def cache_folder(named: str, out: Path) -> Path:
    """The folder of --cache; in the place of the default one, where that cannot be written, one in
    `out`: it says so.

    Raises UserError for the home of somebody who is not known.
    """
    from ibot.cli.main import FEATURE_CACHE
    from ibot.system.places import make_writable

    try:
        folder = Path(named).expanduser()
        if named == FEATURE_CACHE:
            make_writable(folder)
        return folder
    except RuntimeError as error:
        if named != FEATURE_CACHE:
            raise UserError(
                f"'{named}' cannot be used", why=str(error), fix="name another with --cache"
            ) from None
        why = str(error)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    log.warning("features are kept in '%s' (%s)", out / "features", why)
    return out / "features"


def default_out(weights: Path) -> Path:
    """A run keeps its results; those of other weights go below `results`."""
    return (
        weights
        if (weights / "config.json").is_file()
        else Path("results") / (weights.stem or "weights")
    )


def _evenly(images: LabelledImages, limit: int) -> LabelledImages:
    """At most `limit` images, evenly spaced; 0: all."""
    import numpy as np

    from ibot.data.sets.subsets import LabelledSubset

    if not limit or limit >= len(images):
        return images
    return LabelledSubset(images, np.linspace(0, len(images) - 1, limit).astype(np.int64))


def _report(
    context: Context, records: list[ResultRecord], options: argparse.Namespace, asked: str
) -> None:
    from ibot.system.jsonl import append_jsonl

    if not context.processes.is_main:
        return
    records = [replace(record, asked=asked) for record in records]
    append_jsonl(
        context.out / "results.jsonl", *map(asdict, records)
    )  # all or none: they say that it is done
    if options.json:
        for record in records:
            print(json.dumps(asdict(record)))
        return
    height, width = context.view.size
    print(
        f"\n{records[0].protocol}: {context.weights} ({context.key}), {context.mode}, "
        f"{height}x{width}"
    )
    print(
        f"{records[0].num_train} training, {records[0].num_val} validation images, "
        f"{context.num_classes} classes; "
        f"always guessing the largest: {records[0].data['largest_class']:.2f}"
    )
    print(table(records), end="")
    for note in dict.fromkeys(note for record in records for note in record.extra.get("notes", ())):
        print(f"note: {note}")
    print(f"{records[-1].seconds:.1f} s; records in {context.out / 'results.jsonl'}")


def table(records: list[ResultRecord]) -> str:
    """Rows of a protocol: the score with its interval, and what else is known of it."""
    columns = {
        "score": lambda r: f"{r.value:.2f}",
        "95 % interval": lambda r: (
            "" if r.interval is None else f"{r.interval[0]:.2f} to {r.interval[1]:.2f}"
        ),
        "top-5": lambda r: _number(r.extra.get("top5")),
        "balanced": lambda r: _number(r.extra.get("balanced")),
        "chosen": lambda r: str(r.extra.get("chosen", "")),
    }
    names = [str(record.extra.get("row", record.metric)) for record in records]
    cells = {title: [show(record) for record in records] for title, show in columns.items()}
    cells = {title: column for title, column in cells.items() if any(column)}
    lines = [
        ["", *cells],
        *([name, *row] for name, row in zip(names, zip(*cells.values(), strict=True), strict=True)),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "".join(
        "  ".join(
            t.rjust(w) if i else t.ljust(w)
            for i, (t, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def print_notes(notes: Iterable[str], quiet: bool) -> None:
    """What a user should know of the images, on the error output: results may be read by
    programs.
    """
    for note in () if quiet else notes:
        print(f"note: {note}", file=sys.stderr)


def counter(name: str) -> Callable[[int, int], None]:
    """Progress of a part of the work with the time left: one line on a terminal, a line now and
    then elsewhere.
    """
    began = shown = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal first, shown
        now, terminal = time.monotonic(), sys.stderr.isatty()
        first = done if first is None else first
        if not terminal and now - shown < LINE_SECONDS:
            return
        shown = now
        words = f"{name}: {done}/{total}"
        if done > first or done >= total:
            left = (now - began) / max(1, done - first) * (total - done)
            words += f"  left {int(left) // 60}:{int(left) % 60:02d}"
        end = "\n" if not terminal or done >= total else ""
        print(f"\r{words:<60}" if terminal else words, end=end, file=sys.stderr, flush=True)

    return show
