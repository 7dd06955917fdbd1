"""The published files on this machine, each as it first came.

Nobody publishes their sizes or checksums. The first file that comes is taken at its word: its hash
is kept beside it, and another file in its place is refused.
"""

from __future__ import annotations

import difflib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ibot.errors import WeightsError
from ibot.system.download import fetch
from ibot.system.files import sha256_of
from ibot.system.jsonl import write_json
from ibot.weights.beginning import is_cut_short, not_weights
from ibot.weights.published import FOLDERS, FULL, PublishedFile


def fetched(name: str) -> Path:
    """The file with a published model, downloaded where it is not there yet.

    Raises:
        WeightsError: there is no such name, or the file is cut short, no weights, or another than
            the one that was here before. UserError: it cannot be downloaded.
    """
    if name.removesuffix(FULL) not in FOLDERS:
        known = [*FOLDERS, *(f"{one}{FULL}" for one in FOLDERS)]
        nearest = difflib.get_close_matches(name, known, 2, 0.5)
        words = " or ".join(f"ibot:{one}" for one in nearest)
        raise WeightsError(
            f"there are no published weights 'ibot:{name}'",
            why=f"there are {', '.join(FOLDERS)}, and each with {FULL} behind it",
            fix=f"did you mean {words}?   all: ibot weights list" if words else "ibot weights list",
        )
    model = PublishedFile(name)
    if model.file.is_file():
        _check_here(model)
    else:

        def accept(part: Path) -> None:
            _check(part, model)
            _pin(part, model)

        fetch(model.address, model.file, f"ibot:{name}", accept)
    return model.file


def _check_here(model: PublishedFile) -> None:
    """A file that lies in the cache: as it was pinned, or just copied there."""
    known, file = _known(model), model.file
    if known.get("bytes") == file.stat().st_size and known.get("time") == file.stat().st_mtime_ns:
        return  # its hash takes seconds
    _check(file, model)
    _pin(file, model)


def _check(file: Path, model: PublishedFile) -> None:
    """Raise WeightsError for what are no weights, or others than those that were pinned."""
    if wrong := not_weights(file):
        raise WeightsError(
            f"what was to be 'ibot:{model.name}' is no weights file",
            why=f"{wrong}; '{file}'",
            fix=f"look at {model.address}, or copy the file to '{model.file}'",
        )
    if is_cut_short(file):
        raise WeightsError(
            f"'{file}' is cut short",
            why=f"its end is missing after {file.stat().st_size / 2**20:.1f} MiB",
            fix="delete it and run the same command, or copy it again",
        )
    known = _known(model)
    if known and (found := sha256_of(file)) != known["sha256"]:
        raise WeightsError(
            f"'ibot:{model.name}' is another file than before",
            why=f"sha256 {known['sha256'][:16]} on {known['date']}, now {found[:16]}",
            fix=f"where that is meant to be, delete '{model.pin}'; else copy the file again",
        )


def _known(model: PublishedFile) -> dict[str, Any]:
    """What was written beside the file when it came; empty before that."""
    with suppress(OSError, ValueError):
        known = json.loads(model.pin.read_text())
        if isinstance(known, dict) and isinstance(known.get("sha256"), str):
            return {"date": "an unknown day", **known}
    return {}


def _pin(file: Path, model: PublishedFile) -> None:
    """Keep size and hash of a file that was checked; its time tells whether to hash it again."""
    known, about = _known(model), file.stat()
    pinned = {
        "address": model.address,
        "bytes": about.st_size,
        "sha256": known.get("sha256") or sha256_of(file),
        "date": known.get("date") or time.strftime("%Y-%m-%d"),
        "time": about.st_mtime_ns,
    }
    with suppress(OSError):  # a cache that others share may be read only
        write_json(model.pin, pinned)
