"""`ibot index`: which word of the tokenizer each patch of one's images is."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ibot.cli.arguments import COUNT, NATURAL, add_images, add_processes, add_weights
from ibot.cli.inputs import of_request
from ibot.cli.parser import Commands
from ibot.eval.request import Request
from ibot.vocabulary.remedy import unusual
from ibot.words import counted, encodable

if TYPE_CHECKING:
    from ibot.vocabulary.checkpoints import Indexed


def declare(commands: Commands) -> None:
    """Declare `ibot index`."""
    parser = commands.add("index", "store the word of every patch, to look at with explore", run)
    add_weights(parser)
    add_images(parser)
    which = "of a run: newest, all, or N evenly spaced (default: newest)"
    parser.add_argument(
        "--checkpoints", type=_checkpoints, default="newest", metavar="all|N|newest", help=which
    )
    out = "folder of the index (default: index/ in the run, else results/NAME/index)"
    parser.add_argument("--out", default="", metavar="DIR", help=out)
    again = "replace an index in that folder that is of other images, or cannot be read"
    parser.add_argument("--again", action="store_true", help=again)
    workers = "processes that decode images"
    parser.add_argument("--workers", type=NATURAL, default=0, metavar="N", help=workers)
    add_processes(parser)


def _checkpoints(text: str) -> str:
    if text in ("all", "newest"):
        return text
    try:
        return str(COUNT(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected all, newest or a whole number of at least 1, not '{text}'"
        ) from None


def run(options: argparse.Namespace) -> None:
    """Index the images, and say in a line each what there is."""
    from ibot.system.processes import launched_processes
    from ibot.vocabulary.checkpoints import index_checkpoints

    began = time.monotonic()
    indexed = index_checkpoints(
        Request(**of_request(options)),
        options.checkpoints,
        again=options.again,
        quiet=options.quiet,
    )
    if not launched_processes().is_main:
        return
    for line in summary(indexed, time.monotonic() - began):
        print(encodable(line))
    print(encodable(f"next:         {explored(options)}"))


def explored(options: argparse.Namespace) -> str:
    """The command that shows what was indexed: the same network, images and index."""
    words = ["ibot", "explore", options.weights, "--data", options.data]
    words += ["--index", options.out] if options.out else []
    # The size of the view is known by the index itself.
    words += unusual(Request(**of_request(options)), without=("size",))
    words += ["--device", options.device] if options.device != "auto" else []
    return shlex.join(words)


def summary(indexed: Indexed, seconds: float) -> Iterator[str]:
    """One line for each thing that a user may want to know."""
    newest = indexed.indexes[-1]
    read, patches = newest.words.shape
    unread = indexed.count - read
    not_read = f", {counted(unread, 'image')} cannot be read" if unread else ""
    yield f"images:       {read}{not_read}"
    h, w = newest.grid
    yield f"patches:      {read * patches}, {h} x {w} an image"
    for index in indexed.indexes:
        used = int((index.statistics().uses > 0).sum())
        class_used = int((index.statistics("class").uses > 0).sum())
        yield (
            f"words in use: {used} of {index.num_words} by patches, {class_used} of "
            f"{index.num_class_words} by class tokens ({index.name})"
        )
    files = [path for path in indexed.folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    yield f"disk:         {size / 2**20:.1f} MiB in {indexed.folder}"
    yield f"time:         {seconds:.1f} s"
