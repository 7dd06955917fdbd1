"""What `ibot show` can draw, with what each picture may be asked. Imports nothing heavy.

Each line names a module of this package. Its `draw(asked)` takes `show.asked.Asked`, writes files
below `asked.out` and gives what `Drawn` holds. `cli/show.py` makes the command of each line.
"""

from __future__ import annotations

from ibot.show.figures import figure_kinds
from ibot.show.kinds import Drawn, Kind, Option
from ibot.show.options import COMPOSE, MATCH, PATTERNS

__all__ = ["PICTURES", "SHEET", "VIDEO_ENDINGS", "Drawn", "Kind", "Option"]

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
        takes=("limit", "seed"),
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
    "patterns": Kind(
        summary="what the words of the tokenizer stand for: their patches in their surroundings",
        module="patterns_drawn",
        options=PATTERNS,
        size=0,
        takes=("size",),
    ),
    "compose": Kind(
        summary="images by their most attended words",
        module="compose",
        options=COMPOSE,
        size=0,
        limit=6,
        takes=("size", "limit", "seed"),
    ),
    "match": Kind(
        summary="patches of one picture found in another, sparse or dense",
        module="match",
        options=MATCH,
        size=0,
    ),
}
"""By the name of the command."""
PICTURES |= figure_kinds(PICTURES)
