"""What `ibot show` can draw, with what each picture may be asked. Imports nothing heavy.

Each line names a module of this package. Its `draw(asked)` takes `show.asked.Asked`, writes files
below `asked.out` and gives what `Drawn` holds. `cli/show.py` makes the command of each line.
"""

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
    view: bool = True
    """Whether images are seen whole, by `--size` and `--fit`."""
    recipe: bool = False
    """Whether a recipe may stand in the place of weights."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a picture left."""

    files: list[Path]
    lines: tuple[str, ...] = ()
    """What it says of them: `name: value`."""


SHEET = "contact_sheet"
"""Name of the file that shows all images of a call on one page."""

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
"""Of files that are read as videos."""
_HEIGHT = Option(
    name="height",
    kind="count",
    default=240,
    metavar="PIXELS",
    words="of each picture of a strip (default: %(default)s)",
)
_MOVING = (
    Option(
        name="video",
        kind="choice",
        choices=("mp4", "avi", "webp", "frames"),
        words="take the images as frames of one video, and write such a file, or a folder of "
        "frames; of a video file mp4 is made without asking",
    ),
    Option(
        name="rate",
        kind="count",
        metavar="N",
        words="frames a second of that video (default: the source's; 30 for images)",
    ),
)
"""Of pictures that can be drawn of each frame of a video."""

PICTURES: dict[str, Kind] = {
    "attention": Kind(
        summary="what the class token attends to: each head, their mean, their masks, in colours",
        module="attention_pictures",
        options=(
            Option(
                name="only",
                kind="numbers",
                metavar="HEADS",
                words="draw these heads, counted from 0, as in 0,3 (default: all)",
            ),
            Option(
                name="mass",
                kind="share",
                default=0.6,
                metavar="SHARE",
                words="share of a head's attention that its mask holds (default: %(default)s)",
            ),
            Option(
                name="norms",
                kind="switch",
                words="lengths of the patch tokens instead, which show artefacts",
            ),
            _HEIGHT,
            Option(name="each-head", kind="switch", words="also a PNG of each head alone"),
            *_MOVING,
        ),
    ),
    "features": Kind(
        summary="principal components of the patch tokens as colours, foreground first",
        module="features",
        options=(
            Option(
                name="over",
                kind="choice",
                choices=("set", "image"),
                default="set",
                words="fit the components to all images together, so that a colour means the same "
                "in each, or to each alone (default: %(default)s)",
            ),
            Option(
                name="whole",
                kind="switch",
                words="colour all patches; without, the first component parts foreground and "
                "background, and the foreground alone is coloured",
            ),
            _HEIGHT,
            *_MOVING,
        ),
    ),
    "augment": Kind(
        summary="what training sees: views, what is hidden in them, the words to predict",
        module="augment",
        view=False,
        recipe=True,
        options=(
            Option(
                name="epoch",
                kind="natural",
                metavar="E",
                words="of the training, counted from 0 (default: the first with masks)",
            ),
            Option(
                name="number",
                kind="natural",
                metavar="N",
                words="number of the first image in the training set, which says what is drawn for "
                "it (default: its place among the images named: right where the same folder is)",
            ),
            _HEIGHT,
        ),
    ),
}
"""By the name of the command."""
