"""`ibot explore`: the words of a tokenizer, on a page of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.arguments import COUNT, FORMS, NATURAL, add_cache, add_weights
from ibot.cli.inputs import of_request
from ibot.cli.parser import Commands
from ibot.errors import UserError
from ibot.words import encodable

if TYPE_CHECKING:
    from ibot.explore.browser.session import Session

LARGE = 20 * 2**20
"""Bytes that many mail servers refuse."""
MAX_PORT = 65535


def declare(commands: Commands) -> None:
    """Declare `ibot explore`."""
    words = "look at words, images, matches, map and training in a browser"
    parser = commands.add("explore", words, run)
    add_weights(parser)
    data = f"the images: folder, {FORMS}; without: the training alone"
    parser.add_argument("--data", default="", metavar="DATA", help=data)
    index = "index of the words (default: that of `ibot index`; small sets are indexed first)"
    parser.add_argument("--index", default="", metavar="DIR", help=index)
    port = "of 127.0.0.1 (default: 8420, or a free one)"
    parser.add_argument("--port", type=NATURAL, metavar="N", help=port)
    browser = "do not open a browser"
    parser.add_argument("--no-browser", action="store_true", help=browser)
    links = "also show images to which links in the folder lead out of it"
    parser.add_argument("--links", action="store_true", help=links)
    export = "write a page that needs no server, to be sent or put on a web site, and end"
    parser.add_argument("--export", default="", metavar="FILE.html", help=export)
    images = "with --export: images of the folder to show, by name (default: a few)"
    parser.add_argument(
        "--images",
        dest="pictures",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=images,
    )
    count = "with --export: words to show, the most used first (default: %(default)s)"
    parser.add_argument("--words", type=COUNT, default=60, metavar="N", help=count)
    add_cache(parser)


def run(options: argparse.Namespace) -> None:
    """Serve the page, or write it as a file."""
    _check(options)
    from ibot.eval.request import Request
    from ibot.explore.browser.session import Session

    session = Session(
        Request(**of_request(options)),
        folder=Path(options.index) if options.index else None,
        links=options.links,
    )
    if options.export:
        _export(session, options)
        return
    from ibot.explore.browser.server import serve

    serve(session, options.port, browser=not options.no_browser, quiet=options.quiet)


def _export(session: Session, options: argparse.Namespace) -> None:
    """Open everything, write the page, and say what is in it."""
    from ibot.explore.browser.export import export
    from ibot.explore.browser.opening import open_session
    from ibot.system.progress import counter, print_notes

    open_session(session)
    session.state, session.why = "ready", ""
    print_notes([*session.notes, *session.lacking()], options.quiet)
    file = Path(options.export)
    made = export(
        session,
        file,
        names=options.pictures,
        words=options.words,
        progress=None if options.quiet else counter("page"),
    )
    print(encodable(f"page:             {file}, {made.size / 2**20:.1f} MiB"))
    print(encodable(f"words:            {made.words}"))
    print(encodable(f"images:           {', '.join(made.images) or 'none'}"))
    if made.size > LARGE:
        print("advice:           mail may refuse so large a file; fewer --words make it smaller")


def _check(options: argparse.Namespace) -> None:
    """Raise UserError for what is wrong whatever is in the files."""
    if not options.export and options.pictures:
        raise UserError("--images belongs to --export", fix="name the page with --export FILE.html")
    if options.export and not options.data:
        raise UserError(
            "a page without images would be empty", fix="name images with --data for --export"
        )
    if options.port is not None and options.port > MAX_PORT:
        raise UserError(f"there is no port {options.port}", fix=f"--port 0 to {MAX_PORT}")
    from ibot.weights.forms import is_named, meant

    if not is_named(options.weights) and not Path(options.weights).exists():
        raise UserError(
            f"there is no file or folder '{options.weights}'", fix=meant(Path(options.weights))
        )
    if options.data and "://" not in options.data and not _may_be_images(options.data):
        raise UserError(f"there is no folder '{options.data}'", fix="check --data")


def _may_be_images(data: str) -> bool:
    """Whether what was named is there, or is a pattern or a set by name."""
    return Path(data).exists() or ":" in data or any(letter in data for letter in "*?[")
