"""`ibot search`: what resembles what among the images of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.arguments import COSINE, COUNT, NATURAL, add_cache, add_images, add_weights
from ibot.cli.inputs import of_request
from ibot.cli.parser import Commands
from ibot.errors import UserError
from ibot.words import counted, encodable

if TYPE_CHECKING:
    from ibot.explore.findings import Findings

MANY = 0.05
"""Share of images in groups above which the threshold or the network is in doubt: real folders
hold few copies."""


def declare(commands: Commands) -> None:
    """Declare `ibot search`."""
    parser = commands.add("search", "nearest images and patches, near-duplicates, outliers", run)
    add_weights(parser)
    add_images(parser)
    image = "whose neighbours are sought, in the folder or not (default: a few of the folder)"
    parser.add_argument(
        "--image", nargs="+", action="extend", default=[], metavar="FILE", help=image
    )
    patch = "also seek patches like this one of each image, counted from 0 on the view"
    parser.add_argument("--patch", default="", metavar="ROW,COLUMN", help=patch)
    k = "answers to each query (default: %(default)s)"
    parser.add_argument("--k", type=COUNT, default=10, metavar="N", help=k)
    threshold = "cosine of near-duplicates, 0..1 (default: what the images say, with its evidence)"
    parser.add_argument(
        "--duplicates", type=COSINE, default=None, metavar="THRESHOLD", help=threshold
    )
    outliers = "images to name as outliers; 0: none (default: %(default)s)"
    parser.add_argument("--outliers", type=NATURAL, default=12, metavar="N", help=outliers)
    out = (
        "for search.html and search.csv (default: search/DATA in the run, else "
        "results/NAME/search/DATA; DATA-2 for the second search)"
    )
    parser.add_argument("--out", default="", metavar="DIR", help=out)
    add_cache(parser)


def run(options: argparse.Namespace) -> None:
    """Search, write the page and the table, and say in a line each what was found."""
    patch = _checked(options)
    from ibot.eval.opened import default_out
    from ibot.explore.search import PAGE, TABLE, free_folder, search

    if options.out:
        out = Path(options.out)
    else:
        out = free_folder(default_out(Path(options.weights)) / "search", options.data)
    given = {**of_request(options), "out": out}
    findings = search(
        given.pop("weights"),
        given.pop("data"),
        queries=options.image,
        patch=patch,
        k=options.k,
        duplicates=options.duplicates,
        outliers=options.outliers,
        quiet=options.quiet,
        **given,
    )
    for line in summary(findings):
        print(encodable(line))
    print(encodable(f"page:             {out / PAGE}\ntable:            {out / TABLE}"))
    print(
        "next:             open the page in a browser, or search with --image FILE and --patch "
        "ROW,COLUMN"
    )


def _checked(options: argparse.Namespace) -> tuple[int, int] | None:
    """The patch asked for. Raises UserError for what makes no sense whatever the network."""
    if options.out and Path(options.out).exists() and not Path(options.out).is_dir():
        raise UserError(f"'{options.out}' is a file", fix="name a folder with --out")
    if not options.patch:
        return None
    numbers = options.patch.split(",")
    if len(numbers) != 2 or not all(number.strip().isdecimal() for number in numbers):
        raise UserError(
            f"'{options.patch}' is no patch",
            fix="--patch ROW,COLUMN, counted from 0, as in --patch 0,3",
        )
    return int(numbers[0]), int(numbers[1])


def summary(findings: Findings) -> Iterator[str]:
    """One line for each kind of finding."""
    compared = findings.compared
    assert compared is not None
    from_cache = ""
    if compared.cached:
        from_cache = ", features from the cache"
    elif compared.known:
        from_cache = f", features of {compared.known} from the cache"
    yield f"images:           {compared.count} of {compared.folder}{from_cache}"
    if compared.view is not None and compared.grid is not None:
        (height, width), (rows, columns) = compared.view, compared.grid
        yield f"seen as:          {height} x {width} pixels, {rows} x {columns} patches"
    if compared.bad:
        name, reason = compared.bad[0]
        count = counted(len(compared.bad), "image")
        yield f"not read:         {count}, the first: {name}: {reason}"
    for title, patches in (("nearest images", False), ("nearest patches", True)):
        found = [near for near in findings.nearest if (near.query.square is not None) == patches]
        cosines = [answer.similarity for near in found for answer in near.answers]
        values = [cosine for cosine in cosines if cosine is not None]
        if found:
            span = f", similarities {min(values):.3f} to {max(values):.3f}" if values else ""
            answers, asked = counted(len(values), "answer"), counted(len(found), "query")
            yield f"{title + ':':18}{answers} to {asked}{span}"
    yield from _about_duplicates(findings, compared.count)
    if findings.outliers:
        first = findings.outliers[0]
        strangest = f"{first.name} ({first.similarity:.3f})"
        yield f"outliers:         {len(findings.outliers)}, the strangest: {strangest}"


def _about_duplicates(findings: Findings, count: int) -> Iterator[str]:
    """How many near-duplicates there are among `count` images, on what they rest, and advice."""
    if findings.duplicates is None:
        return
    from ibot.explore.evidence import verdict
    from ibot.explore.pairs import EXACT

    found = findings.duplicates
    alike = sum(len(group.pictures) for group in found.groups)
    of = f"{counted(len(found.groups), 'group')} of {counted(alike, 'image')}"
    if found.evidence is None:
        at = "" if found.threshold is None else f" at {found.threshold:g} or more"
        yield f"near-duplicates:  {of}{at}"
        if alike > MANY * count:
            higher = "a higher --duplicates or " if (found.threshold or 1) < EXACT else ""
            yield (
                f"advice:           {alike / count:.1%} of the images are in groups; if they are "
                f"no copies, use {higher}a better trained network, or leave --duplicates out"
            )
        return
    evidence = found.evidence
    network = (
        ""
        if found.threshold is None
        else f", or at {evidence.like:.2f} with a similarity of {found.threshold:.3f}"
    )
    yield f"near-duplicates:  {of}; pictures agree at {evidence.same:.3f}{network}"
    yield f"calibration:      {verdict(evidence)}"
    if evidence.altered:
        made = sum(kind.count for kind in evidence.altered)
        how = "" if evidence.tells else " by pictures alone"
        again = f"{evidence.known_again:.0%} of {made} altered copies are known again{how}"
        yield f"                  {again}"
