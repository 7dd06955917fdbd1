"""The state of work that may be cut off: one file, from which the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ibot.errors import RunError
from ibot.system.distributed import barrier, check_equal
from ibot.system.files import read_state, write_atomically
from ibot.system.processes import Processes

SAVE_SECONDS = 30
"""Between two states on disk, where time decides."""


@dataclass(slots=True)
class StateFile:
    """A file that is whole or absent, written by the main process and read by all."""

    file: Path
    processes: Processes
    identity: dict[str, Any] | None = None
    """What the work must share with the stored one; None where the file's name says it."""
    belongs_to: Path | None = None
    """The folder that is of no use without the file, if it is part of one."""
    _saved: float = field(default_factory=time.monotonic, init=False)

    def read(self, progress: Callable[[Any], object]) -> Any | None:
        """The stored state, tensors on the CPU; None where there is none.

        Args:
            progress: what of a state says how far the work is; all processes must see the same.

        Raises:
            RunError: the file belongs to other work. WeightsError: it is damaged.
            UserError: the processes do not go on from the same place.
        """
        state = read_state(self.file, self.belongs_to) if self.file.is_file() else None
        if state is not None and self.identity is not None and state["identity"] != self.identity:
            raise RunError(
                f"'{self.belongs_to or self.file}' holds another training",
                why=_differences(state["identity"], self.identity),
                fix="use another folder, or what this one was started with",
            )
        done = None if state is None else progress(state)
        check_equal({f"what '{self.file.name}' says is done": done})
        return state

    @property
    def due(self) -> bool:
        """Whether the main process has not saved for `SAVE_SECONDS`; False in the others."""
        return self.processes.is_main and time.monotonic() - self._saved >= SAVE_SECONDS

    def write(self, state: Callable[[], dict[str, Any]]) -> None:
        """Replace the file; `state` is called in the main process alone.

        Raises ResourceError when the disk is full.
        """
        if not self.processes.is_main:
            return
        about = {} if self.identity is None else {"identity": self.identity}
        content = {**about, **state()}
        write_atomically(self.file, lambda path: torch.save(content, path))
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The work is done: delete the file once every process has come here."""
        barrier()
        if self.processes.is_main:
            self.file.unlink(missing_ok=True)


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs between two identities, with both values."""
    a, b = dict(_flat(stored)), dict(_flat(wanted))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return "; ".join(f"{name} was {a.get(name)}, now {b.get(name)}" for name in names)


def _flat(identity: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in identity.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value
