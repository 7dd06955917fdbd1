"""Records as they lie on disk, with the run or the weights that each was measured of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ibot.errors import UserError
from ibot.system.records import RESULTS, data_name, read_records
from ibot.types import ResultRecord

PRE_TRAINING = "pre-training"
"""Mode of the records that a training leaves while it runs."""
HASH_LETTERS = 8
"""Of a hash, enough to tell the weights of one run apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and what it was measured of."""

    run: str
    """Folder of the run, or the weights where they belong to none."""
    record: ResultRecord
    weights: str = ""
    """Start of the hash of the network's weights, empty where it is not known."""
    unnamed_step: int | None = None
    """Where a training's own record belongs to weights that no evaluation has named: their step."""
    trained: int | None = None
    """Step of the training that these weights are of, where the record or the order of all tells
    it."""
    place: int = 0
    """Of the folder below which it was found among those that were named."""

    @property
    def subject(self) -> tuple[str, str]:
        """Run or weights, and network."""
        return self.run, self.record.key or "teacher"  # trainings measure the teacher

    @property
    def version(self) -> str:
        """What tells the weights from others of the same run and network: one column each."""
        return self.weights if self.unnamed_step is None else f"step {self.unnamed_step}"

    @property
    def label(self) -> str:
        """The version as people call it: the step of the training, else the hash."""
        return self.version if self.trained is None else f"step {self.trained}"

    @property
    def metric(self) -> str:
        """Name of the metric, that of its protocol first."""
        record = self.record
        of_protocol = record.metric.startswith(record.protocol)
        return record.metric if of_protocol else f"{record.protocol}_{record.metric}"

    @property
    def row(self) -> str:
        """The protocol's row, or the metric's name within the protocol where there is none."""
        settings = self.record.settings
        row = str(self.record.row) or (f"k = {settings['k']}" if "k" in settings else "")
        # A row that is named after what was chosen would stand apart for each choice.
        chosen = str(self.record.chosen)
        row = "" if row == chosen else row.removesuffix(f", {chosen}")
        return row or self.metric.removeprefix(f"{self.record.protocol}_")

    @property
    def mode(self) -> str:
        """Where settings were chosen, or that it was measured during the training."""
        return self.record.mode if self.record.step is None else PRE_TRAINING

    @property
    def data(self) -> str:
        """Name of the images, empty where it is not known."""
        return data_name(self.record.data.get("root", ""))


def span_of(record: ResultRecord | None) -> tuple[float, float] | None:
    """Smallest and largest value of the draws whose mean a record is."""
    span = record.extra.get("range") if record is not None else None
    if not isinstance(span, list | tuple) or len(span) != 2:
        return None
    return (span[0], span[1]) if all(isinstance(end, int | float) for end in span) else None


def read_folders(
    folders: Iterable[str | Path], name: str = RESULTS
) -> tuple[list[Entry], list[str]]:
    """The records in and below folders, in order of time; and the folders without any.

    name: of the files that are read: `RESULTS`, or `BESIDE` for the records of baselines.

    A folder may be given twice, by two names, or below another one: its records come once. Raises
    UserError for a folder that is missing.
    """
    known: dict[tuple[str, str], Entry] = {}
    empty = []
    named = dict.fromkeys(os.path.normpath(folder) for folder in folders)
    for place, folder in enumerate(named):
        found = read_folder(Path(folder), name)
        if not found:
            empty.append(folder)
        for entry in found:
            same = os.path.realpath(entry.run), str(entry.record)
            known.setdefault(same, replace(entry, place=place))
    return sorted(known.values(), key=lambda entry: entry.record.when), empty


def read_folder(folder: Path, name: str = RESULTS) -> list[Entry]:
    """The records in and below a folder, in the order of the files.

    Of a training's own they are those of its last step. Raises UserError for a folder that is
    missing.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {kind}", fix="name a run, or a folder with results below it")
    found: list[Entry] = []
    for file in _files(folder, name):
        try:
            records = read_records(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"'{file}' cannot be read", why=str(error), fix="mend it, or move it away"
            ) from None
        steps = _steps(file.parent, records)
        found += [
            replace(entry, trained=steps.get((entry.subject, entry.weights)))
            for entry in _entries(file.parent, _without_early_steps(records))
        ]
    return found


def _files(folder: Path, name: str) -> list[Path]:
    """Files of a name in and below a folder, sorted; links to folders are not followed."""
    return sorted(Path(place) / name for place, _, names in os.walk(folder) if name in names)


def _steps(folder: Path, records: Sequence[ResultRecord]) -> dict[tuple[tuple[str, str], str], int]:
    """Step of the weights of a run, by subject and start of their hash.

    Where no record of theirs says it (older ones), that of the last record of the training before
    their first evaluation; the start alone, at step 0, names nothing then.
    """
    found: dict[tuple[tuple[str, str], str], int] = {}
    last = 0
    for record in records:
        subject = Entry(_subject(folder, record), record).subject
        weights = record.weights_hash[:HASH_LETTERS]
        if record.step is not None:
            last = record.step
        elif record.trained is not None:
            found[subject, weights] = record.trained
        elif last and weights and subject[0] == str(folder):
            found.setdefault((subject, weights), last)
    return found


def _without_early_steps(records: Sequence[ResultRecord]) -> list[ResultRecord]:
    """Records of evaluations, and of those that the training made the ones at its last step."""
    last = max((record.step for record in records if record.step is not None), default=0)
    return [record for record in records if record.step in (None, last)]


def _entries(folder: Path, records: Sequence[ResultRecord]) -> list[Entry]:
    """What the records of a file, in its order, were measured of.

    A training does not hash its weights: they are those that the next evaluation of the run reads.
    """
    found: list[Entry] = []
    named: dict[tuple[str, str], str] = {}
    for record in reversed(records):
        entry = Entry(_subject(folder, record), record, record.weights_hash[:HASH_LETTERS])
        if record.step is None or record.weights_hash:
            named[entry.subject] = entry.weights
        elif entry.subject in named:
            entry = replace(entry, weights=named[entry.subject])
        else:
            entry = replace(entry, unnamed_step=record.step)
        found.append(entry)
    return found[::-1]


def _subject(folder: Path, record: ResultRecord) -> str:
    """The run's folder for its own weights, wherever it lay; else the weights as they were named.

    A training names no weights.
    """
    weights = os.path.normpath(record.weights or ".")
    own = (folder / "config.json").is_file() and Path(weights).name in ("", folder.resolve().name)
    return str(folder) if own or not record.weights else weights
