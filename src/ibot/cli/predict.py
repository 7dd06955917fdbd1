"""`ibot predict`: classes of images by a classifier that an evaluation left."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.cli.arguments import COUNT, FORMS, NATURAL, add_channels, add_device, add_windows
from ibot.cli.parser import Commands
from ibot.errors import UserError
from ibot.eval.request import Request
from ibot.system.files import write_named
from ibot.system.progress import counter, print_notes
from ibot.system.tables import fill_table, print_table
from ibot.words import counted, encodable

if TYPE_CHECKING:
    from ibot.config.reading import Opening
    from ibot.eval.predict import Predictions

SUFFIXES = (".csv", ".json")


def declare(commands: Commands) -> None:
    """Declare `ibot predict`."""
    parser = commands.add("predict", "classes of images by a trained classifier", run)
    classifier = (
        "file of a classifier (ibot eval linear, logistic, finetune or transfer writes one), or "
        "the run in which it lies"
    )
    parser.add_argument("classifier", metavar="CLASSIFIER", help=classifier)
    images = f"files, folders, {FORMS}; of a folder with train/ and val/ only train/ is read"
    parser.add_argument("images", nargs="+", metavar="IMAGES", help=images)
    out = ".csv or .json (default: CSV on the standard output)"
    parser.add_argument("--out", default="", metavar="FILE", help=out)
    top = "name the K most probable classes of each image (default: %(default)s)"
    parser.add_argument("--top", type=COUNT, default=1, metavar="K", help=top)
    as_json = "JSON on the standard output, not CSV"
    parser.add_argument("--json", action="store_true", help=as_json)
    batch = "images at a time (default: as in evaluations)"
    parser.add_argument("--batch", type=COUNT, default=0, metavar="N", help=batch)
    workers = "processes that decode images"
    parser.add_argument("--workers", type=NATURAL, default=0, metavar="N", help=workers)
    most = "read images of up to N pixels (default: as in training)"
    parser.add_argument("--max-pixels", type=COUNT, default=0, metavar="N", help=most)
    add_windows(parser)
    add_channels(parser, "the network's")
    add_device(parser, "auto")


def run(options: argparse.Namespace) -> None:
    """Predict, write names with classes, and say on the error output what could not be read."""
    out = Path(options.out) if options.out else None
    if out is not None and (out.suffix not in SUFFIXES or options.json):
        raise UserError(
            f"cannot write predictions as '{out.suffix}'"
            if out.suffix not in SUFFIXES
            else "--json is for the standard output",
            fix=f"end --out with {' or '.join(SUFFIXES)}",
        )
    from ibot.eval.classifiers import find_classifier
    from ibot.eval.opened import unlike_training
    from ibot.eval.predict import labels_for, open_for, predicted, unknown_note
    from ibot.system.device import choose_device

    device = choose_device(options.device)
    found = find_classifier(options.classifier)
    classifier = found.classifier.to(device)
    sets = open_for(classifier, options.images, _opening(options, classifier.opening))
    notes = list(filter(None, [found.note]))
    for images in sets:
        notes += images.notes
        notes += unlike_training(images, classifier)
        notes += unknown_note(images, classifier.classes)
    print_notes(dict.fromkeys(notes), options.quiet)
    count = _Counted()
    parts = predicted(
        classifier,
        sets,
        batch=options.batch,
        workers=options.workers,
        progress=None if options.quiet else counter("images"),
    )
    told = count.over(parts)
    labelled = any(labels_for(images, classifier.classes) for images in sets)
    top = min(options.top, len(classifier.classes))
    if options.json or (out is not None and out.suffix == ".json"):
        about = {"classifier": str(found.file), "classes": list(classifier.classes)}
        _give_json(out, about, told, count, top)
    else:
        header, rows = _header(top, labelled), _rows(told, top, labelled)
        if out is None:
            print_table(sys.stdout, header, rows)
        else:
            write_named(out, lambda path: fill_table(path, header, rows), "--out")
    for line in count.lines(f" -> {out}" if out else ""):
        print(encodable(line), file=sys.stderr)


def _opening(options: argparse.Namespace, stored: Opening) -> Opening:
    """How the images are opened: as in the training, but for what the options say."""
    request = Request(
        weights=options.classifier,
        channels=options.channels,
        channel_files=options.channel_files,
        no_data=options.no_data,
    )
    windows = {"side": options.window, "content": options.window_content}
    return replace(
        stored,
        channels=request.with_reading(stored.channels).reading,
        windows=replace(stored.windows, **{k: v for k, v in windows.items() if v}),
        max_pixels=options.max_pixels or stored.max_pixels,
    )


class _Counted:
    """What passed by, for the lines at the end."""

    def __init__(self) -> None:
        self.read = self.right = self.labelled = 0
        self.bad: list[tuple[str, str]] = []

    def over(self, parts: Iterator[Predictions]) -> Iterator[Predictions]:
        """The same parts, counted."""
        for part in parts:
            right, labelled = part.right
            self.read += len(part)
            self.right, self.labelled = self.right + right, self.labelled + labelled
            self.bad += part.bad
            yield part

    def lines(self, where: str) -> Iterator[str]:
        """What a user should know at the end."""
        for name, reason in self.bad:
            yield f"not read: {name}: {reason}"
        said = f"{counted(self.read, 'image')}{where}"
        if self.labelled:
            share = 100 * self.right / self.labelled
            said += f"; {share:.2f} % of {self.labelled} have the class of their folder or list"
        yield said + (f"; {len(self.bad)} not read" if self.bad else "")


def _header(top: int, labelled: bool) -> list[str]:
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    return [
        "name",
        *(["label"] if labelled else []),
        *(f"{title}{rank}" for rank in ranks for title in ("class", "probability")),
    ]


def _rows(parts: Iterator[Predictions], top: int, labelled: bool) -> Iterator[list[Any]]:
    """A row for each image: name, perhaps its label, and classes with probabilities."""
    for part in parts:
        for name, label, best in zip(part.names, part.labels, part.top(top), strict=True):
            cells = [cell for known, value in best for cell in (known, f"{value:.6f}")]
            yield [name, *([label] if labelled else []), *cells]


def _give_json(
    out: Path | None, about: dict[str, Any], parts: Iterator[Predictions], count: _Counted, top: int
) -> None:
    """One object: the classifier, its classes, what was predicted, what could not be read."""
    predictions = []
    for part in parts:
        for name, label, best in zip(part.names, part.labels, part.top(top), strict=True):
            found = [{"class": known, "probability": round(value, 6)} for known, value in best]
            named = {"name": name, **({"label": label} if label else {})}
            predictions.append({**named, **found[0], **({"top": found} if top > 1 else {})})
    unread = [{"name": name, "reason": reason} for name, reason in count.bad]
    text = json.dumps({**about, "predictions": predictions, "unreadable": unread}, indent=1)
    if out is None:
        print(text)
    else:
        write_named(out, lambda path: path.write_text(text + "\n", encoding="utf-8"), "--out")
