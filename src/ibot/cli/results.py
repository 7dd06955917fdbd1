"""`ibot results`: what was measured, runs and weights side by side."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.parser import Commands
from ibot.errors import UserError
from ibot.system.progress import print_notes
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.report.records import Entry
    from ibot.report.table import Table


def declare(commands: Commands) -> None:
    """Declare `ibot results`."""
    parser = commands.add("results", "results of runs and weights side by side", run)
    folders = "runs, folders of results, or folders that hold such"
    parser.add_argument("folders", nargs="+", metavar="DIR", help=folders)
    every = "all rows, and every record with its date and the settings that differ"
    parser.add_argument("--all", action="store_true", help=every)
    csv = "write all rows as CSV, with the 95 %% intervals; with --all every record"
    parser.add_argument("--csv", default="", metavar="FILE", help=csv)
    text = "the same as Markdown"
    parser.add_argument("--markdown", default="", metavar="FILE", help=text)
    plot = "draw bars with the 95 %% intervals: a panel per protocol, a colour per run"
    parser.add_argument("--plot", default="", metavar="FILE.png", help=plot)


def run(options: argparse.Namespace) -> None:
    """Print the table, or the list of all records, and write it where that is asked for."""
    from ibot.report.names import brief_names
    from ibot.report.table import cells_of, list_of, side_by_side
    from ibot.report.text import aligned, folded, markdown, write_csv
    from ibot.system.files import write_named

    _check_files(options)
    entries, beside = _read(options)
    table = side_by_side(entries, beside)
    shown = table if options.all else table.main()
    if options.plot:
        from ibot.report import chart

        panels = chart.panels_of(shown)
        write_named(Path(options.plot), lambda path: chart.results_picture(panels, path), "--plot")
    lines = list_of(entries) if options.all else []
    if options.csv:
        wide = lines or cells_of(table, intervals=True, ranges=True)
        write_named(Path(options.csv), lambda path: write_csv(path, wide), "--csv")
    if options.markdown:
        text = markdown(lines or cells_of(table, ranges=True))
        write_named(
            Path(options.markdown),
            lambda path: path.write_text(text, encoding="utf-8"),
            "--markdown",
        )
    print(aligned(folded(cells_of(shown, names=brief_names(table)))), end="")
    if options.all:
        print("\n" + aligned(lines), end="")
    if not options.quiet:
        print(_counts(table, shown, len(entries), options.all))
    for name in filter(None, (options.csv, options.markdown, options.plot)):
        print(f"written: {name}")


def _counts(table: Table, shown: Table, records: int, everything: bool) -> str:
    """The last line: how much there is, and how the rest is seen."""
    networks = counted(len(table.networks) - len(table.baselines), "network")
    said = f"{networks}, {counted(records, 'record')}"
    left_out = len(table.rows) - len(shown.rows)
    if everything:
        return said
    rest = f"; {counted(left_out, 'row')} left out" if left_out else ""
    return f"{said}{rest}; --all shows everything, with dates and settings"


def _check_files(options: argparse.Namespace) -> None:
    """Raise UserError for names that cannot be those of the files to write."""
    for name in filter(None, (options.csv, options.markdown, options.plot)):
        if Path(name).is_dir():
            raise UserError(f"'{name}' is a folder", fix="name a file")
    if options.plot and Path(options.plot).suffix.lower() != ".png":
        raise UserError(
            f"'{options.plot}' is no name for a picture",
            fix="end the name given to --plot with .png",
        )


def _read(options: argparse.Namespace) -> tuple[list[Entry], list[Entry]]:
    """The records of all folders, and those of baselines; folders without any are named.

    Raises UserError where no folder has one.
    """
    from ibot.report.records import read_folders
    from ibot.system.records import BESIDE, RESULTS

    entries, empty = read_folders(options.folders)
    if not entries:
        raise UserError(
            f"no results in or below '{empty[0]}'",
            why=f"no {RESULTS} there holds a record",
            fix=f"ibot eval knn {shlex.quote(empty[0])} --data DIR writes them for a run",
        )
    left_out = (f"no results in or below '{folder}': it is left out" for folder in empty)
    print_notes(left_out, options.quiet)
    return entries, read_folders(options.folders, BESIDE)[0]
