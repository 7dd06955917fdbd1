"""Which fast paths of a training step run: one place that chooses, remembers, and says why.

A fast path is a function beside its plain form. It asks `chosen` where the two part, each time it
is called, and takes the plain form when the answer is no. What was answered is said once, in the
log of a run: `Choices.text`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ibot.errors import UserError

Mode = Literal["auto", "reference", "require"]


class Choices:
    """What was answered so far, by the name of the fast path."""

    def __init__(self, mode: Mode, without: Collection[str] = (), why: str = "") -> None:
        self.mode, self.without, self.why = mode, without, why
        self.taken: dict[str, str] = {}
        """How each path runs that was taken at least once."""
        self.plain: dict[str, str] = {}
        """Why others were not: the last reason."""

    def text(self) -> str:
        """One line for a log, by name: which path ran first differs after a resumption."""
        if self.mode == "reference":
            return f"kernels: the plain forms alone ({self.why or 'system.kernels=reference'})"
        taken = [f"{name} ({how})" if how else name for name, how in sorted(self.taken.items())]
        said = "kernels: " + (", ".join(taken) or "none")
        plain = sorted(
            f"{name}, {why}" for name, why in self.plain.items() if name not in self.taken
        )
        return "; ".join([said, *(f"not {reason}" for reason in plain)])


# Of the process, as threads and devices are: the backward pass has threads of its own, which no
# context variable reaches.
_current = Choices("auto")


@contextmanager
def using(mode: Mode, without: Collection[str] = (), why: str = "") -> Iterator[Choices]:
    """Choose by `mode` until the end, then as before.

    auto: what is there and pays. reference: the plain forms alone. require: as auto, but a path
    that this machine lacks something for is an error. without: names of paths that do not run.
    why: for the log, where not the settings said reference.
    """
    global _current
    before, _current = _current, Choices(mode, without, why)
    try:
        yield _current
    finally:
        _current = before


def chosen(name: str, how: str = "", *, lacks: str = "", unfit: str = "") -> bool:
    """Whether the fast path `name` runs here; if not, its plain form does.

    Outside of `using` the answer is that of auto. While torch exports, traces or compiles a network
    no fast path runs: what is written must not hold calls that only this machine has, and a
    compiled block is fast by itself. Nor do they within transformations of `torch.func`.

    Args:
        name: what it computes, a noun of the log: "losses".
        how: by what means it runs: "Triton".
        lacks: what this machine lacks for it: "Triton is not installed"; empty: nothing.
        unfit: why it is not for these settings or tensors, or would not pay; never an error.

    Raises:
        UserError: something is lacking, and `system.kernels=require`.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportAttributeAccessIssue]
        return False
    choices = _current
    if choices.mode == "reference":
        return False
    if name in choices.without:
        unfit = "switched off"
    if not (lacks or unfit):
        choices.taken[name] = how
        return True
    if lacks and not unfit and choices.mode == "require":
        raise UserError(
            f"the fast {name} cannot run here", why=lacks, fix="use system.kernels=auto"
        )
    choices.plain[name] = unfit or lacks
    return False
