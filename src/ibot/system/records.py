"""Files of records, whoever wrote them: trainings and evaluations, of this version and before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ibot.system.jsonl import read_jsonl
from ibot.types import ResultRecord

RESULTS = "results.jsonl"
"""Their name in the folder of a run, or of what was evaluated."""
BESIDE = "baselines.jsonl"
"""Name of the file beside it: records of what has learnt nothing, measured in the place of the
network (`ResultRecord.baseline`). A file of their own, so that nobody takes them for the network's.
"""


def read_records(file: Path) -> list[ResultRecord]:
    """The records of a results.jsonl, none where it is absent; other rows are passed over."""
    found = [_record(row) for row in read_jsonl(file)]
    return [record for record in found if record is not None]


PARTS = ("train", "val", "test", "480p", "JPEGImages", "original", "originals")
"""Folders that are but a part of a set."""


def data_name(root: object) -> str:
    """Name of a folder of images as records have it: for a part of a set that of the set."""
    path = Path(str(root))
    while path.name in PARTS:
        path = path.parent
    return path.name


def _record(row: Any) -> ResultRecord | None:
    """The record of a row; None for what another program wrote."""
    if not isinstance(row, dict) or not isinstance(row.get("extra", {}), dict):
        return None
    try:
        record = ResultRecord.from_row(row)
    except TypeError:
        return None
    sound = isinstance(record.value, int | float) and isinstance(record.settings, dict)
    return record if sound and isinstance(record.data, dict) else None
