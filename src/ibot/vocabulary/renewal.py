"""An index that no longer fits makes room for another: what is ours in its folder is deleted."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ibot.errors import DataError
from ibot.eval.features.entry import name_of
from ibot.vocabulary.folder import FILE, Shared
from ibot.vocabulary.opened import open_one
from ibot.vocabulary.remedy import ABOUT
from ibot.vocabulary.word_index import FEATURES
from ibot.words import counted

_PLACE = re.compile("[0-9a-f]{16}")
"""Names of what belongs to one checkpoint."""
_OURS = (ABOUT, "projection.npz", "patch_statistics.npz")
"""Files of which one lies in each of them."""


def unfit(folder: Path, wanted: Shared) -> bool:
    """Whether what lies in `folder` is not, or not wholly, an index of what is wanted."""
    if not (folder / FILE).is_file():
        return False
    return _misfits(folder, wanted) or bool(_damaged(folder, Shared.read(folder)))


def make_room(folder: Path, wanted: Shared) -> str:
    """Delete what is unfit in `folder`; returns what that was, empty for nothing.

    Deleted are index.json, what belongs to its checkpoints, and rows of its images; files of
    others stay. Whenever this dies, it goes on at the next call.

    Raises DataError for an index.json that is not ours.
    """
    if not unfit(folder, wanted):
        return ""
    about = _plain(folder / FILE)
    if not {"format", "images", "view"} <= about.keys():
        raise DataError(
            f"'{folder / FILE}' is no index of words",
            why="it is somebody else's, or damaged, and is not deleted",
            fix="name another folder with --out, or delete it yourself",
        )
    if not _misfits(folder, wanted):
        damaged = _damaged(folder, Shared.read(folder))
        for place in damaged:
            _remove(place)
        return f"{counted(len(damaged), 'checkpoint')} in it could not be read"
    for place in _places(folder):
        shutil.rmtree(place)
    for entry in (folder / FEATURES).glob("*/"):
        rows = _plain(entry / ABOUT)
        # By its name it is one of the cache; which others may share, with other images.
        if rows.get("images") == about["images"] and name_of(rows) == entry.name:
            shutil.rmtree(entry)
    (folder / FILE).unlink()
    return f"it was of {about.get('count', '?')} images under '{about.get('root', '?')}'"


def _misfits(folder: Path, wanted: Shared) -> bool:
    """Whether index.json is of something else, or of another version."""
    try:
        return bool(Shared.read(folder).misfits(wanted))
    except DataError:
        return True


def _remove(place: Path) -> None:
    """Delete a checkpoint that cannot be read, with the rows that it names: they may be why."""
    named = _plain(place / ABOUT).get("features")
    for name in named.values() if isinstance(named, dict) else ():
        entry = place.parent / FEATURES / str(name)
        if name_of(_plain(entry / ABOUT)) == entry.name:
            shutil.rmtree(entry)
    shutil.rmtree(place)


def _places(folder: Path) -> list[Path]:
    return [
        place
        for place in folder.iterdir()
        if _PLACE.fullmatch(place.name)
        and not place.is_symlink()
        and any((place / name).is_file() for name in _OURS)
    ]


def _damaged(folder: Path, shared: Shared) -> list[Path]:
    """What was whole once, and cannot be opened."""
    found = []
    for place in _places(folder):
        try:
            if (place / ABOUT).is_file():
                open_one(place, shared)
        except DataError:
            found.append(place)
    return found


def _plain(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
