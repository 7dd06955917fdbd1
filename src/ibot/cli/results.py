"""`ibot results`: what was measured, runs and weights side by side."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ibot.config.override import show
from ibot.errors import ResourceError, UserError
from ibot.eval.registry import EVALUATIONS
from ibot.system.places import DISK_FULL
from ibot.system.progress import print_notes
from ibot.types import ResultRecord
from ibot.words import counted

FILE = "results.jsonl"
PRE_TRAINING = "pre-training"
"""Mode of the records that a training leaves while it runs."""
HASH_LETTERS = 8
"""Of a hash, enough to tell the weights of one run apart."""
LISTED = 4
"""Values of a list that a title shows; of a longer one it shows the ends."""
OF_THE_VIEW = ("size", "fit", "interpolation", "exif_orientation")
"""Settings of a record that belong to no protocol."""
TITLE_LETTERS, NETWORK_LETTERS = 44, 18
"""Width on the terminal from which the title of a row, and the name of a run or of weights,
takes another line."""
CONCERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "semi": {"share": (), "lists": (), "probes": (), "subsets": ()},
    "part_linear": {"shares": ()},
    "backgrounds": {"challenge": ()},
    "corruptions": {
        "corruptions": ("corruptions_mean", "corruptions_relative"),
        "baseline": ("corruptions_relative",),
    },
    "shuffle": {"grids": ()},
}
"""Settings that decide which rows a protocol reports, and the starts of the names of the metrics
that they change."""


class Measure(NamedTuple):
    """What makes two numbers comparable: a row of the table."""

    protocol: str
    row: str
    """As the protocol calls it, or the metric's name within the protocol."""
    metric: str
    """Whole name."""
    mode: str
    data: str
    """Name of the images."""
    val: str
    """How many of them, and how many to train on."""
    train: str
    size: str
    """Of the view, empty where it is not known."""
    fit: str
    orientation: str
    settings: tuple[tuple[str, str], ...]
    """Names and values, as JSON, of the protocol's settings."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and what it was measured of."""

    run: str
    """Folder of the run, or the weights where they belong to none."""
    record: ResultRecord
    weights: str = ""
    """Start of the hash of the network's weights, empty where it is not known."""
    step: int | None = None
    """Where a training's own record belongs to weights that no evaluation has named: their step."""
    place: int = 0
    """Of the folder below which it was found among those that were named."""

    @property
    def subject(self) -> tuple[str, str]:
        """Run or weights, and network."""
        return self.run, self.record.key or "teacher"  # trainings measure the teacher

    @property
    def version(self) -> str:
        """What tells the weights from others of the same run and network: one column of the table
        each.
        """
        return self.weights if self.step is None else f"step {self.step}"

    @property
    def metric(self) -> str:
        """Name of the metric, that of its protocol first."""
        record = self.record
        return (
            record.metric
            if record.metric.startswith(record.protocol)
            else f"{record.protocol}_{record.metric}"
        )

    @property
    def row(self) -> str:
        """The protocol's row, or the metric's name within the protocol where there is none."""
        record = self.record
        row = str(
            record.extra.get("row", f"k = {record.settings['k']}" if "k" in record.settings else "")
        )
        # A row that is named after what was chosen would stand apart for each choice.
        chosen = str(record.extra.get("chosen", ""))
        row = "" if row == chosen else row.removesuffix(f", {chosen}")
        return row or self.metric.removeprefix(f"{record.protocol}_")

    @property
    def mode(self) -> str:
        """Where settings were chosen, or that it was measured during the training."""
        return PRE_TRAINING if "step" in self.record.extra else self.record.mode

    @property
    def data(self) -> str:
        """Name of the images, empty where it is not known."""
        return _name_of(self.record.data.get("root", ""))

    @property
    def measure(self) -> Measure:
        """Where the record stands in the table."""
        record = self.record
        size, fit = record.settings.get("size"), record.settings.get("fit")
        return Measure(
            record.protocol,
            self.row,
            self.metric,
            self.mode,
            self.data,
            f"{record.num_val} images",
            f"{record.num_train} training images",
            "x".join(map(str, size)) + " pixels" if isinstance(size, list | tuple) else "",
            f"fit={fit}" if fit else "",
            f"exif_orientation={record.settings.get('exif_orientation', 'apply')}",
            _of_protocol(record),
        )


@dataclass(frozen=True, slots=True)
class Table:
    """The last record of each row and column."""

    rows: dict[Measure, tuple[str, ...]]
    """Title, in parts: protocol, row, and what tells it from the others."""
    networks: list[tuple[str, ...]]
    """Run or weights, network, and the version where there are several: the columns."""
    cells: dict[tuple[Measure, tuple[str, ...]], ResultRecord]
    """By row and column."""


def run(options: argparse.Namespace) -> int:
    """Print the table, or the list of all records, and write it where that is asked for."""
    for name in (options.csv, options.markdown, options.plot):
        _check_file(name)
    if options.plot and Path(options.plot).suffix.lower() != ".png":
        raise UserError(
            f"'{options.plot}' is no name for a picture",
            fix="end the name given to --plot with .png",
        )
    entries = _read(_unique(options.folders), options.quiet)
    # The same folder may be given twice, by two names, or below another one.
    known: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        known.setdefault((os.path.realpath(entry.run), str(entry.record)), entry)
    entries = sorted(known.values(), key=lambda entry: entry.record.when)
    table = side_by_side(entries)
    if options.plot:
        _plot(table, Path(options.plot))
    lines = list_of(entries) if options.all else cells_of(table)
    if options.csv:
        wide = lines if options.all else cells_of(table, intervals=True, ranges=True)
        write_file(Path(options.csv), lambda path: _write_csv(path, wide))
    if options.markdown:
        text = markdown(lines if options.all else cells_of(table, ranges=True))
        write_file(Path(options.markdown), lambda path: path.write_text(text, encoding="utf-8"))
    print(aligned(lines if options.all else folded(lines)), end="")
    if not options.quiet:
        hidden = "" if options.all else "; --all lists them with dates and settings"
        print(
            f"{counted(len(table.networks), 'network')}, {counted(len(entries), 'record')}{hidden}"
        )
    for name in filter(None, (options.csv, options.markdown, options.plot)):
        print(f"written: {name}")
    return 0


def _read(folders: Sequence[str], quiet: bool) -> list[Entry]:
    """The records of all folders; those without any are named. Raises UserError where no folder has
    one.
    """
    found = [read_folder(Path(folder)) for folder in folders]
    empty = [folder for folder, entries in zip(folders, found, strict=True) if not entries]
    if len(empty) == len(folders):
        raise UserError(
            f"no results in or below '{empty[0]}'",
            why=f"no {FILE} there holds a record",
            fix=f"ibot eval knn {shlex.quote(empty[0])} --data DIR writes them for a run",
        )
    print_notes((f"no results in or below '{folder}': it is left out" for folder in empty), quiet)
    return [replace(entry, place=place) for place, entries in enumerate(found) for entry in entries]


def read_folder(folder: Path) -> list[Entry]:
    """The records in and below a folder, in the order of the files; of a training's own, those of
    its last step.

    Raises UserError for a folder that is missing.
    """
    from ibot.system.jsonl import read_jsonl

    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {kind}", fix="name a run, or a folder with results below it")
    found: list[Entry] = []
    for file in _files(folder):
        try:
            rows = read_jsonl(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"'{file}' cannot be read", why=str(error), fix="mend it, or move it away"
            ) from None
        records = [record for record in map(_record, rows) if record is not None]
        found += _entries(file.parent, _without_early_steps(records))
    return found


def side_by_side(entries: Sequence[Entry]) -> Table:
    """One row per metric, one column per network with its weights; entries in order of time, so the
    last stays.
    """
    columns = _columns(entries)
    cells = {
        (entry.measure, columns[entry.subject, entry.version]): entry.record for entry in entries
    }
    names = list(dict.fromkeys(entry.metric for entry in entries))
    rows = sorted({measure for measure, _ in cells}, key=lambda measure: _order(measure, names))
    return Table({row: _title(row, rows) for row in rows}, list(columns.values()), cells)


def _columns(entries: Iterable[Entry]) -> dict[tuple[tuple[str, str], str], tuple[str, ...]]:
    """Title of the column of each subject and version, in order: folders as they were named,
    versions by time.

    What trainings measured comes last.
    """
    found = dict.fromkeys((entry.subject, entry.version) for entry in entries if entry.record.when)
    found |= dict.fromkeys((entry.subject, entry.version) for entry in entries)
    count = Counter(subject for subject, _ in found)
    place = {
        entry.subject: entry.place for entry in sorted(entries, key=lambda entry: -entry.place)
    }
    return {
        (subject, version): (*subject, version) if version and count[subject] > 1 else subject
        for subject, version in sorted(found, key=lambda column: (place[column[0]], column[0]))
    }


def cells_of(table: Table, intervals: bool = False, ranges: bool = False) -> list[list[str]]:
    """The table as text, titles first; run and network of a column stand one below the other.

    Args:
        table: what to show.
        intervals: add two columns to each for the ends of the 95 % intervals.
        ranges: add a column, where there are means over several draws, for the range of the draws.
    """
    lines = [["protocol", "row"]]
    lines += [[protocol, ", ".join(row)] for protocol, *row in table.rows.values()]
    for network in table.networks:
        records = [table.cells.get((row, network)) for row in table.rows]
        columns: list[tuple[tuple[str, ...], list[str]]] = [
            (network, [f"{record.value:.2f}" if record else "" for record in records])
        ]
        for i, end in enumerate(("low", "high") if intervals else ()):
            ends = [
                f"{record.interval[i]:.2f}" if record and record.interval else ""
                for record in records
            ]
            columns.append(((*network, end), ends))
        spans = [_ends(_range(record)) for record in records]
        if ranges and any(spans):
            columns.append(((*network, "range"), spans))
        for name, cells in columns:
            for line, cell in zip(lines, ("\n".join(name), *cells), strict=True):
                line.append(cell)
    return lines


def list_of(entries: Sequence[Entry]) -> list[list[str]]:
    """Every record in a line: when, of what, how much, and the settings in which records of its
    metric differ.
    """
    lines = [["date", "run", "network", "metric", "value", "95 % interval", "settings that differ"]]
    known, columns = [_settings(entry) for entry in entries], _columns(entries)
    for entry, own in zip(entries, known, strict=True):
        others = [
            s for e, s in zip(entries, known, strict=True) if e.record.metric == entry.record.metric
        ]
        # Weights of a run that was trained on tell all its records apart, also those of different
        # metrics.
        always = (
            ("weights", "step") if columns[entry.subject, entry.version] != entry.subject else ()
        )
        differing = [
            key
            for key in own
            if key in always or len({str(other[key]) for other in others if key in other}) > 1
        ]
        span = _range(entry.record)
        spread = (
            f"range {_ends(span)}"
            if span and not entry.record.interval
            else _ends(entry.record.interval)
        )
        lines.append(
            [
                entry.record.when or "in training",
                *entry.subject,
                entry.metric,
                f"{entry.record.value:.2f}",
                spread,
                " ".join(f"{key}={own[key]}" for key in differing),
            ]
        )
    return lines


def folded(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of a table with long titles in several lines, so that they fit a terminal."""
    (protocol, row, *networks), *rest = lines
    names = [
        "\n".join(_fold(part, "[/_.-]", NETWORK_LETTERS) for part in name.split("\n"))
        for name in networks
    ]
    return [
        [protocol, row, *names],
        *([first, _fold(title, ", ", TITLE_LETTERS), *cells] for first, title, *cells in rest),
    ]


def _fold(text: str, end: str, width: int) -> str:
    """Text in lines of at most `width` letters where they may end, which is after matches of
    `end`.
    """
    lines = [""]
    for piece in re.split(f"(?<={end})", text):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of text with numbers to the right; a cell of several lines takes several."""
    parts = [[cell.split("\n") for cell in line] for line in lines]
    widths = [max(len(text) for line in parts for text in line[i]) for i in range(len(lines[0]))]
    numbers = [all(_is_number(line[i]) for line in lines[1:]) for i in range(len(widths))]
    out = []
    for line in parts:
        for level in range(max(map(len, line))):
            texts = [cell[level] if level < len(cell) else "" for cell in line]
            padded = [
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(texts, widths, numbers, strict=True)
            ]
            out.append(printable("  ".join(padded).rstrip()) + "\n")
    return "".join(out)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same as a table of Markdown."""
    shown = [
        [printable(", ".join(cell.split("\n")).replace("|", "\\|")) for cell in line]
        for line in lines
    ]
    rule = [
        "---:" if all(_is_number(line[i]) for line in lines[1:]) else "---"
        for i in range(len(lines[0]))
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (shown[0], rule, *shown[1:]))


def _unique(folders: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(os.path.normpath(folder) for folder in folders))


def _files(folder: Path) -> list[Path]:
    """Files of results in and below a folder, sorted; links to folders are not followed."""
    return sorted(Path(place) / FILE for place, _, names in os.walk(folder) if FILE in names)


def _record(row: Any) -> ResultRecord | None:
    """The record of a line; None for what another program wrote."""
    if not isinstance(row, dict):
        return None
    known = {field.name: row[field.name] for field in fields(ResultRecord) if field.name in row}
    try:
        record = ResultRecord(**known)
    except TypeError:
        return None
    sound = isinstance(record.value, int | float) and isinstance(record.extra, dict)
    return (
        record
        if sound and isinstance(record.settings, dict) and isinstance(record.data, dict)
        else None
    )


def _without_early_steps(records: Sequence[ResultRecord]) -> list[ResultRecord]:
    """Records of evaluations, and of those that the training made the ones at its last step."""
    last = max((record.extra["step"] for record in records if "step" in record.extra), default=0)
    return [record for record in records if record.extra.get("step", last) == last]


def _entries(folder: Path, records: Sequence[ResultRecord]) -> list[Entry]:
    """What the records of a file, in its order, were measured of.

    A training does not hash its weights: they are those that the next evaluation of the run reads.
    """
    found: list[Entry] = []
    named: dict[tuple[str, str], str] = {}
    for record in reversed(records):
        entry = Entry(_subject(folder, record), record, record.weights_hash[:HASH_LETTERS])
        if "step" not in record.extra or record.weights_hash:
            named[entry.subject] = entry.weights
        elif entry.subject in named:
            entry = replace(entry, weights=named[entry.subject])
        else:
            entry = replace(entry, step=record.extra["step"])
        found.append(entry)
    return found[::-1]


def _subject(folder: Path, record: ResultRecord) -> str:
    """The run's folder for its own weights, wherever it lay when it was evaluated; else the weights
    as they were named.

    A training names no weights.
    """
    weights = os.path.normpath(record.weights or ".")
    own = (folder / "config.json").is_file() and Path(weights).name in ("", folder.resolve().name)
    return str(folder) if own or not record.weights else weights


def _order(measure: Measure, names: Sequence[str]) -> tuple[Any, ...]:
    """Rows of a protocol stand together, those of one metric by their numbers, what was measured in
    training first.

    Metrics of a protocol keep the order in which it reports them, which is that of `names`.
    """
    protocol, row, metric, mode, *others = measure
    place = list(EVALUATIONS).index(protocol) if protocol in EVALUATIONS else len(EVALUATIONS)
    numbers = [int(digits) for digits in re.findall("[0-9]+", row)]
    return place, protocol, names.index(metric), numbers, row, mode != PRE_TRAINING, mode, *others


def _title(measure: Measure, rows: Iterable[Measure]) -> tuple[str, ...]:
    """Parts of a title: protocol and row, and of all else what it takes to tell the row from the
    others.
    """
    title, alike = measure[:2], [other for other in rows if other[:2] == measure[:2]]
    for part in range(2, len(measure) - 1):
        if len({other[part] for other in alike}) > 1 and measure[part]:
            title = (*title, str(measure[part]))
        alike = [other for other in alike if other[part] == measure[part]]
    for name, value in measure.settings:
        values = {text for other in alike for key, text in other.settings if key == name}
        if len(values) > 1:
            brief = len({_written(text) for text in values}) == len(values)
            title = (*title, f"{name}={_written(value, brief)}")
        alike = [other for other in alike if (name, value) in other.settings]
    return title


def _of_protocol(record: ResultRecord) -> tuple[tuple[str, str], ...]:
    """The settings of its protocol, as JSON, that do not show in the row.

    What a record lacks, as one of an earlier version may, has its default. What the defaults depend
    on, network or number of images, is not known here: such protocols too are compared by what was
    used.
    """
    known = EVALUATIONS.get(record.protocol)
    if known is None:
        return tuple(
            (key, json.dumps(value))
            for key, value in record.settings.items()
            if key not in OF_THE_VIEW
        )
    found, partial = [], CONCERNS.get(record.protocol, {})
    for key, default in json.loads(json.dumps(asdict(known.settings))).items():
        value = record.settings.get(key, default)
        one_of_them = isinstance(default, list) and not isinstance(value, list | tuple)
        # Records of classifiers describe them under `head`, also where that is the name of a
        # setting.
        elsewhere = one_of_them or isinstance(value, dict)
        if not elsewhere and record.metric.startswith(partial.get(key, "")):
            found.append((key, json.dumps(_name_of(value) if key == "root" else value)))
    return tuple(found)


def _written(text: str, brief: bool = True) -> str:
    """A value given as JSON in the form of the command line."""
    value = json.loads(text)
    if not isinstance(value, list):
        return show(value) or "none"
    shown = [
        ":".join(map(show, item)) if isinstance(item, list) else show(item) for item in value
    ] or ["none"]
    return (
        f"{shown[0]}..{shown[-1]} ({len(shown)} values)"
        if brief and len(shown) > LISTED
        else ",".join(shown)
    )


def _name_of(root: object) -> str:
    """Name of a folder of images: that of its parent for a part of a set."""
    path = Path(str(root))
    return path.parent.name if path.name in ("train", "val", "test") else path.name


def _range(record: ResultRecord | None) -> tuple[float, float] | None:
    """Smallest and largest value of the draws whose mean this is."""
    span = record.extra.get("range") if record is not None else None
    if (
        not isinstance(span, list | tuple)
        or len(span) != 2
        or not all(isinstance(end, int | float) for end in span)
    ):
        return None
    return span[0], span[1]


def _ends(span: tuple[float, float] | None) -> str:
    return "{:.2f} to {:.2f}".format(*span) if span else ""


def _settings(entry: Entry) -> dict[str, Any]:
    """Everything that may differ between two records of a metric."""
    record = entry.record
    about = {
        "mode": entry.mode,
        "data": entry.data,
        "train": record.num_train,
        "val": record.num_val,
        "seed": record.seed,
        "step": record.extra.get("step"),
        "weights": entry.weights,
        "chosen": record.extra.get("chosen"),
    }
    about["data_hash"] = str(record.data.get("val", ""))[:8]
    return {
        **record.settings,
        **{key: value for key, value in about.items() if value not in (None, "")},
    }


def _is_number(text: str) -> bool:
    try:
        return not text or float(text) is not None
    except ValueError:
        return False


def _check_file(name: str) -> None:
    if name and Path(name).is_dir():
        raise UserError(f"'{name}' is a folder", fix="name a file")


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file and create the folders above it. Raises UserError, and ResourceError where the
    disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        kind = ResourceError if error.errno in DISK_FULL else UserError
        raise kind(
            f"'{path}' cannot be written", why=error.strerror or str(error), fix="name another"
        ) from None


def _write_csv(path: Path, lines: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([", ".join(cell.split("\n")) for cell in line] for line in lines)


def _plot(table: Table, out: Path) -> None:
    """Bars of the table, by row."""
    from ibot.report.chart import Bar, results_picture

    several = len({network for _, network, *_ in table.networks}) > 1
    groups = {}
    for row, title in table.rows.items():
        groups[", ".join(title)] = [
            Bar(
                printable(f"{run} ({', '.join(about)})" if about else run),
                record.value,
                record.interval,
            )
            for run, network, *version in table.networks
            if (record := table.cells.get((row, (run, network, *version)))) is not None
            for about in [[network, *version] if several else version]
        ]
    write_file(out, lambda path: results_picture(groups, path))


def printable(text: str) -> str:
    """Text that any terminal takes: bytes of names that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
