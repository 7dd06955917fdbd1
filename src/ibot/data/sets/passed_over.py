"""Files that are not read, by their kind, and how they can be."""

from __future__ import annotations

from collections import Counter

from ibot.data.formats import FURTHER, extension, is_litter
from ibot.errors import printable
from ibot.words import counted

HEIF = "pip install pillow-heif makes .heic readable"
ARRAYS = "data.channels=all, or --channels all, reads .npy beside pictures"
SETS = (".tar", ".parquet", ".arrow", ".zarr")
"""Extensions of what holds many images, and is not looked into beside pictures."""


def passed_over_note(kinds: Counter[str]) -> list[str]:
    """How many files are not read, by their kind, and how they can be; none of none."""
    if not kinds:
        return []
    said = f"{counted(kinds.total(), 'file')} passed over: {commonest(kinds)}"
    remedies = "; ".join(_remedies(kinds))
    return [f"{said} ({remedies})" if remedies else said]


def _remedies(kinds: Counter[str]) -> list[str]:
    found = []
    if set(kinds) & set(FURTHER["HEIF"]):
        found.append(HEIF)
    if ".npy" in kinds:
        found.append(ARRAYS)
    if sets := [kind for kind in SETS if kind in kinds]:
        found.append(f"name {' or '.join(sets)} itself as the data to read what is in it")
    return found


def kind_of(name: str) -> str:
    """What a file that is not read counts as."""
    return (
        "hidden or of the system"
        if is_litter(name, False)
        else extension(name) or "without extension"
    )


def commonest(kinds: Counter[str], limit: int = 5) -> str:
    """The most frequent kinds with their numbers, and how many other kinds there are."""
    shown = ", ".join(f"{count} {printable(kind)}" for kind, count in kinds.most_common(limit))
    more = f" and {counted(len(kinds) - limit, 'other kind')}" if len(kinds) > limit else ""
    return shown + more
