"""`ibot report`: what is known of a run, as one page."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ibot.cli.arguments import NATURAL
from ibot.cli.parser import Commands
from ibot.errors import UserError
from ibot.words import encodable


def declare(commands: Commands) -> None:
    """Declare `ibot report`."""
    summary = "a page on a run: curves, verdicts, results, pictures, settings"
    parser = commands.add("report", summary, run)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, in any state")
    out = "the HTML file (default: report.html in the run)"
    parser.add_argument("--out", default="", metavar="FILE.html", help=out)
    images = "validation images of which pictures are made now; 0: none (default: %(default)s)"
    parser.add_argument("--images", type=NATURAL, default=4, metavar="N", help=images)


def run(options: argparse.Namespace) -> None:
    """Write the page, and say where it is and how the run stands."""
    folder = _checked(options)
    from ibot.report.run_report import write_report
    from ibot.report.summary import Summary

    out = Path(options.out) if options.out else folder / "report.html"
    told = write_report(folder, out, options.images)
    word, _ = Summary(told).status
    print(encodable(f"report: {out} ({out.stat().st_size / 2**20:.1f} MiB; {word})"))
    if not options.quiet:
        print("next:   open it in a browser, or mail it: it needs nothing else")


def _checked(options: argparse.Namespace) -> Path:
    """The run. Raises UserError for several, and for what is no folder."""
    if len(options.runs) > 1:
        names = " ".join(map(shlex.quote, options.runs))
        raise UserError(
            "a report is about one run",
            why=f"{len(options.runs)} were named",
            fix=f"ibot results {names} puts them side by side",
        )
    folder = Path(options.runs[0])
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"'{folder}' {kind}", fix="name the folder of a run")
    if options.out and Path(options.out).is_dir():
        raise UserError(f"'{options.out}' is a folder", fix="name a file with --out")
    return folder
