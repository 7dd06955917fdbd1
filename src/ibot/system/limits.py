"""What a container or a scheduler lets this process have of the machine: cores and memory.

Linux keeps that in control groups. A process belongs to one; each group above it may limit it too.
In a container the topmost that can be seen is the container's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
"""Where the system shows control groups."""
OWN = Path("/proc/self/cgroup")
"""Which of them this process is in, a line a hierarchy: `0::/user.slice`, `4:memory:/docker/1`."""

_OLDER = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def core_limit() -> float | None:
    """Cores' worth of time that this process may take at most; None without a limit."""
    limits = []
    for folder in _folders("cpu"):
        older = (word for name in _OLDER for word in _words(folder / name))
        words = _words(folder / "cpu.max") or tuple(older)
        # The first is "max", or -1, where there is no limit.
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def memory_limit() -> float | None:
    """GiB that this process and those beside it in its container may hold; None without a limit."""
    limits = [
        int(words[0]) / 2**30
        for folder in _folders("memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (words := _words(folder / name)) and words[0].isdecimal()
    ]
    # The older form has no word for "no limit", but a number near 2^63.
    return min((limit for limit in limits if limit < 2**30), default=None)


def memory() -> float:
    """GiB of main memory, of the container if it is limited; nan where the system does not tell."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return float("nan")
    return min(whole, memory_limit() or whole)


def _folders(kind: str) -> Iterator[Path]:
    """Folders of this process's groups for `kind`, in the one hierarchy or in that of the kind."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, place = rest.partition(":")
        if number == "0" and not kinds:
            root = GROUPS / "unified" if (GROUPS / "unified").is_dir() else GROUPS
        elif kind in kinds.split(","):
            root = GROUPS / kinds if (GROUPS / kinds).is_dir() else GROUPS / kind
        else:
            continue
        # A container sees its own group as the root, but its name as the machine knows it.
        group = root / place.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _words(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text().split())
    except OSError:
        return ()
