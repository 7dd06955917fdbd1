"""What helps where an index is missing or does not fit: the command that makes it, as a user would
type it. Imports nothing heavy.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from ibot.eval.request import Request

ABOUT = "about.json"
"""Written last into what belongs to a checkpoint: with it an index is whole."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """How a user named the weights, the images and the index."""

    request: Request | None = None
    """None: in general words."""
    index: str = ""
    """The folder of the index that was named; empty: the usual one."""
    option: str = "--out"
    """By which another folder would be."""

    @property
    def make(self) -> str:
        """The command that makes the index, or goes on with it."""
        if self.request is None:
            return "ibot index RUN --data DIR"
        out = ["--out", self.index] if self.index else []
        data = self.request.data or "DIR"
        words = ["ibot", "index", self.request.weights, "--data", data, *out]
        return shlex.join([*words, *unusual(self.request)])

    def renew(self, folder: Path) -> str:
        """The command that puts another index in the place of that in `folder`, with as many
        checkpoints.
        """
        held = len([*folder.glob(f"*/{ABOUT}")])
        # Only a run has several; what else may be named is one.
        run = self.request is not None and (Path(self.request.weights) / "checkpoints").is_dir()
        return f"{self.make}{f' --checkpoints {held}' if run and held > 1 else ''} --again"

    def instead(self, folder: Path) -> str:
        """What to do about an index in `folder` that is of something else."""
        return f"name another folder with {self.option}, or replace it:  {self.renew(folder)}"


HOW = (
    *("key", "heads", "size", "window", "window_content", "max_pixels", "exif_orientation"),
    *("channels", "channel_files", "no_data"),
)
"""Options that say how a network sees images."""


def unusual(request: Request, *, without: tuple[str, ...] = ()) -> list[str]:
    """The options that say how a network sees images, as far as they are not the usual ones."""
    usual = {field.name: field.default for field in fields(Request)}
    words = []
    for name in HOW:
        value = getattr(request, name)
        if name not in without and value != usual[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--allow-partial"] if request.allow_partial else words
