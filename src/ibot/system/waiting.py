"""How long OpenMP threads spin while they wait for work; decided before torch is loaded.

By default they spin for milliseconds, so that programs which share a machine take the processors
from each other while they do nothing: two trainings on two cores become several times slower than
one after the other. What short spins cost a single program stands in docs/results.md ("Sharing a
machine"); `benchmarks/waiting.py` measures it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SHORT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""Spins of GNU's library, torch's on Linux; milliseconds of LLVM's and Intel's elsewhere."""
CHOICES = ("OMP_WAIT_POLICY", *SHORT)
"""Variables with which users choose."""

_set_here: set[str] = set()


def spin_shortly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads spin shortly, unless the user has chosen; call it before torch is loaded."""
    if not any(environment.get(name) for name in CHOICES):
        environment.update(SHORT)
        _set_here.update(SHORT)


def in_force(environment: MutableMapping[str, str] = os.environ) -> str:
    """What is in force and who has chosen it, in words."""
    chosen = {name: environment[name] for name in CHOICES if environment.get(name)}
    if not chosen:
        return (
            "threads spin as long as the OpenMP library likes: torch was loaded before ibot could "
            "choose"
        )
    by = "ibot" if _set_here >= chosen.keys() else "you or your system"
    return f"{' '.join(f'{name}={value}' for name, value in chosen.items())}, set by {by}"
