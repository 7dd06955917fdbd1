"""`ibot data`: look into a set of images, and pack one into shards."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from ibot.cli.arguments import COUNT, FORMS, NATURAL, add_channels
from ibot.cli.parser import Commands
from ibot.config.override import parse
from ibot.config.reading import PICTURES, Channels, Windows
from ibot.errors import UserError
from ibot.words import counted, encodable


def declare(commands: Commands) -> None:
    """Declare `ibot data` with its actions."""
    actions = commands.add_group(
        "data",
        summary="what a set of images is like; pack one into shards",
        description="Sets of images: folders, lists, archives.",
        title="actions",
        metavar="ACTION",
    )
    _declare_report(actions)
    _declare_pack(actions)


def _declare_report(actions: Commands) -> None:
    summary = "counts, sizes, formats, channels, broken files and copies"
    parser = actions.add("report", summary, report)
    _add_data(parser)
    sample = "images of a part to look at, evenly spaced; 0: all (default: %(default)s)"
    parser.add_argument("--sample", type=NATURAL, default=5000, metavar="N", help=sample)
    workers = "processes that read them; 0: none but this one (default: as many as cores)"
    parser.add_argument("--workers", type=NATURAL, metavar="N", help=workers)
    parser.add_argument("--json", default="", metavar="FILE", help="write the numbers there")
    page = "write one page that needs nothing else"
    parser.add_argument("--html", default="", metavar="FILE", help=page)
    add_channels(parser, "rgb, colour pictures; all: every one")
    window = "look at large images in windows of so many pixels, side by side"
    parser.add_argument("--window", type=COUNT, default=0, metavar="PIXELS", help=window)


def _declare_pack(actions: Commands) -> None:
    summary = "tar shards of the files as they are, which give the same batches"
    parser = actions.add("pack", summary, pack)
    _add_data(parser)
    to = "new folder; --data of other commands takes it"
    parser.add_argument("--to", required=True, metavar="SHARDS", help=to)
    size = "images in a shard (default: %(default)s)"
    parser.add_argument("--size", type=COUNT, default=500, metavar="N", help=size)


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = f"folder, {FORMS}; with train/ and val/ both are read"
    parser.add_argument("data", nargs="+", metavar="DATA", help=data)


def _only(options: argparse.Namespace) -> str:
    """The set. Raises UserError for several."""
    if len(options.data) > 1:
        raise UserError(
            "one set of images at a time", why=f"{len(options.data)} were named", fix="name one"
        )
    return options.data[0]


def _channels(options: argparse.Namespace) -> Channels:
    """What the options of `add_channels` say. Raises UserError for values that are no numbers."""
    try:
        no_data = parse(options.no_data, tuple[float, ...]) if options.no_data else ()
    except ValueError as error:
        raise UserError(f"--no-data {options.no_data} cannot be", why=str(error)) from None
    return Channels(options.channels or PICTURES.names, options.channel_files, no_data)


def report(options: argparse.Namespace) -> None:
    """Look at the images, and say what they are like."""
    data, page = _only(options), Path(options.html)
    from dataclasses import asdict

    from ibot.data.sets.open import open_parts
    from ibot.studies.data_advice import advice
    from ibot.studies.data_page import require_place, text_lines, write_page
    from ibot.studies.data_report import examine
    from ibot.system.files import write_named
    from ibot.system.machine import own_cores
    from ibot.system.progress import counter, print_notes

    if options.html:
        require_place(page)
    parts = open_parts(data, _channels(options), Windows(options.window))
    for images in parts.values():
        print_notes(images.notes, options.quiet)
    found = examine(
        data,
        parts,
        sample=options.sample,
        workers=own_cores() if options.workers is None else options.workers,
        progress=None if options.quiet else counter("images"),
        compared=None if options.quiet else counter("pairs"),
    )
    for line in text_lines(found):
        print(encodable(line))
    if options.json:
        text = json.dumps({**asdict(found), "advice": advice(found)}, indent=1)
        write_named(Path(options.json), lambda path: path.write_text(text + "\n"), "--json")
    if options.html:
        write_page(found, parts, page)
        print(encodable(f"page         {page}"))


def pack(options: argparse.Namespace) -> None:
    """Pack, check, and say how to go on."""
    data, out = _only(options), Path(options.to)
    from ibot.data.packing import pack as pack_parts
    from ibot.data.packing import parts_to_pack
    from ibot.system.progress import counter, print_notes

    parts = parts_to_pack(data)
    for images in parts.values():
        print_notes(images.notes, options.quiet)
    progress = None if options.quiet else counter("shards")
    made = pack_parts(parts, out, size=options.size, progress=progress)
    for name, number in made.parts.items():
        print(encodable(f"{name or 'images':13}{counted(number, 'image')}"))
    kept = f", {made.kept} of them there already" if made.kept else ""
    size = f"{made.num_bytes / 2**20:.1f} MiB of images"
    print(encodable(f"shards       {made.shards} in {out}{kept}; {size}, every byte compared"))
    for name in made.empty:
        print(encodable(f"not read     {name}: it keeps its place as an empty file"))
    if not options.quiet:
        print(encodable(f"next         ibot pretrain auto --data {shlex.quote(str(out))}"))
