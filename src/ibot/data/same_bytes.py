"""Files of the same bytes among many: sizes are compared first, then heads, then all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from ibot.system.files import sha256_of

HEAD = 4096
"""Bytes that are compared before files are read whole."""
Key = TypeVar("Key")


def same_bytes(files: Mapping[Key, Path]) -> list[list[Key]]:
    """Groups of files with the same content, the largest first, each in the order of `files`.

    Empty files, and those that cannot be read, are in none.
    """
    groups = [list(files)]
    for look in (_size, _head, sha256_of):
        groups = [same for group in groups for same in _alike(group, files, look)]
    return sorted(groups, key=lambda group: -len(group))


def _alike(
    keys: Iterable[Key], files: Mapping[Key, Path], look: Callable[[Path], object]
) -> list[list[Key]]:
    """Those of which a look gives the same and anything, two or more together."""
    found: dict[object, list[Key]] = {}
    for key in keys:
        try:
            seen = look(files[key])
        except OSError:
            continue
        if seen:
            found.setdefault(seen, []).append(key)
    return [group for group in found.values() if len(group) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)
