"""Which images a run was trained on: their names lie beside it, so that it can say what changed."""

from __future__ import annotations

import gzip
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot.data.sets.images import Images
from ibot.data.sets.windows import in_windows
from ibot.errors import RunError, printable
from ibot.system.files import replacing

NAMES = "images.txt.gz"
"""In a run's folder; a zero byte ends each name, as none can hold one."""
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Changed:
    """How the images of a run differ from those that it was trained on last."""

    before: int
    now: int
    added: Sequence[str] | None
    """None where the names were not kept: of windows, and in runs of earlier versions."""
    gone: Sequence[str] | None

    @property
    def only_added(self) -> bool:
        """Whether all those of before are still there."""
        return self.gone is not None and not self.gone

    @property
    def none_left(self) -> bool:
        """Whether none of those of before is still there."""
        return self.gone is not None and len(self.gone) == self.before

    def __str__(self) -> str:
        whole = f"{self.before} images then, {self.now} now"
        if self.added is None or self.gone is None:
            return (
                f"{whole}; which ones were added or are gone is not known (newer versions read "
                "more kinds of files, .avif, .jfif and without extension, and leave validation "
                "parts, valid/, out)"
            )
        if not self.added and not self.gone:
            return f"{whole}, in another order"
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for names, what in ((self.added, "added"), (self.gone, "gone"))
            if names
        ]
        return f"{whole}: {', '.join(parts)}"


def write_names(run: Path, images: Images) -> None:
    """Keep the names of the images in the folder of a run; windows have none that stay."""
    if in_windows(images):
        return
    names = (os.fsencode(images.name(i)) for i in range(len(images)))
    # Without a time and a name inside: the same images, the same bytes.
    packed = gzip.compress(b"".join(name + b"\0" for name in names), compresslevel=6, mtime=0)
    with replacing(run / NAMES) as file:
        file.write_bytes(packed)


def changed(run: Path, recorded: Mapping[str, Any], images: Images) -> Changed | None:
    """What differs between the images and those of a run; None where nothing does, or where it was
    converted from elsewhere, with images that nobody recorded.

    recorded: `data` of its provenance.json.
    """
    now = images.provenance()
    if recorded.get("names_sha256") in (None, now.get("names_sha256")):
        return None
    before, file = int(recorded.get("images") or 0), run / NAMES
    if not file.is_file() or in_windows(images):
        return Changed(before, len(images), None, None)
    old = [os.fsdecode(name) for name in gzip.decompress(file.read_bytes()).split(b"\0")[:-1]]
    new = [images.name(i) for i in range(len(images))]
    known, there = set(old), set(new)
    added = [name for name in new if name not in known]
    return Changed(before, len(new), added, [name for name in old if name not in there])


def refusal(run: Path, change: Changed, data: str = "") -> RunError:
    """The error for images that a run does not take by itself, with the command that does.

    data: where they lie, if not where the run was started on them.
    """
    new = "start anew in another folder with --run"
    if change.none_left:
        return RunError(
            f"'{run}' was started on other images",
            why=str(change),
            fix=f"name the folder of the training images with --data, or {new}",
        )
    return RunError(
        f"'{run}' was started on other images",
        why=str(change),
        fix="to go on with the images as they are now:  ibot pretrain --run "
        f"{shlex.quote(str(run))}{f' --data {shlex.quote(data)}' if data else ''} --accept-images\n"
        f"        or put back what is gone, or {new}",
    )


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more
