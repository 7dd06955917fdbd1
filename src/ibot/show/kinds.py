"""What a picture of `ibot show` may be asked, and what it leaves. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One thing that a picture may be asked, beside what all have."""

    name: str
    """As in `--name VALUE`."""
    words: str
    """Of the help."""
    kind: Literal["count", "natural", "numbers", "share", "cosine", "text", "choice", "switch"]
    """Which values it takes; natural: from 0 on; numbers: as in 0,3,5; switch: none, it is on where
    it is named."""
    default: Any = None
    metavar: str | None = None
    """None: the name in capitals."""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One picture."""

    summary: str
    module: str
    options: tuple[Option, ...] = ()
    images: Literal["+", "*"] = "+"
    """Whether images must be named."""
    size: int = 480
    """Pixels of the shorter side unless the user says; 0: as in training."""
    takes: tuple[str, ...] = ("size", "fit", "limit", "seed")
    """Which of the common options about images and draws make sense."""
    limit: int = 100
    """Images of a folder unless the user says."""
    recipe: bool = False
    """Whether a recipe may stand in the place of weights."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a picture left."""

    files: list[Path]
    lines: tuple[str, ...] = ()
    """What it says of them: `name: value`."""
