"""`ibot ablate`: a table of the paper at the length the user chooses."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.arguments import NATURAL, add_data, add_device, add_length, list_of
from ibot.cli.parser import Commands
from ibot.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ibot.studies.ablation import Job


def declare(commands: Commands) -> None:
    """Declare `ibot ablate`."""
    parser = commands.add("ablate", "a table of the paper's ablations on your data", run)
    name = "the table; without it, list them"
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help=name)
    add_data(parser)
    recipe = "base (default: %(default)s)"
    parser.add_argument("--recipe", default="ablation_base", metavar="RECIPE", help=recipe)
    folder = "folder of the runs; the same command resumes"
    parser.add_argument("--run", dest="run_folder", metavar="DIR", help=folder)
    seeds = "seeds (default: 0)"
    parser.add_argument("--seeds", type=list_of(NATURAL), default=(0,), metavar="S[,S]", help=seeds)
    add_length(
        parser,
        steps="stop each run after N steps",
        epochs="length of each run and its schedules",
    )
    add_device(parser)
    listed = "print the commands, one per job, and run nothing"
    parser.add_argument("--list", action="store_true", help=listed)
    parser.set_defaults(settings=())  # for all rows


def run(options: argparse.Namespace) -> int:
    """Train every row with every seed, one after the other, and print the table.

    Finished rows are kept.
    """
    from ibot.recipes.ablations import ABLATIONS

    if options.name not in ABLATIONS:
        _list_tables(options.name)
        return 0
    from ibot.studies.ablation import train_all

    folder = Path(options.run_folder or f"runs/ablate-{options.name}")
    jobs = _jobs(options, folder)
    if options.list:
        for job in jobs:
            print(shlex.join(["ibot", *job.command]))
        return 0
    if not options.data:
        raise DataError(
            "an ablation needs --data", fix="name a labelled folder, so that k-NN can be measured"
        )
    return train_all(options.name, jobs, folder, options.quiet or not sys.stdout.isatty())


def _list_tables(name: str) -> None:
    """Print all tables. Raises ConfigError for a name that none has."""
    from ibot.recipes.ablations import ABLATIONS

    width = max(map(len, ABLATIONS))
    for known, table in ABLATIONS.items():
        print(f"{known:{width}}  {table.title} ({table.source})")
    if name:
        nearest = difflib.get_close_matches(name, ABLATIONS, 1)
        fix = f"did you mean {nearest[0]}?" if nearest else "choose one of those above"
        raise ConfigError(f"unknown ablation '{name}'", fix=fix)


def _jobs(options: argparse.Namespace, folder: Path) -> list[Job]:
    """What is to be trained; without images the commands say DIR in their place."""
    from ibot.recipes.ablations import ABLATIONS
    from ibot.studies.ablation import make_jobs

    shared = ["--val-data", options.val_data] if options.val_data else []
    shared += ["--device", options.device] if options.device else []
    shared += [f"--steps={options.steps}"] if options.steps else []
    shared += [f"--epochs={options.epochs:g}"] if options.epochs else []
    return make_jobs(
        ABLATIONS[options.name],
        folder,
        recipe=options.recipe,
        data=options.data or "DIR",
        seeds=options.seeds,
        shared=[*shared, *options.settings],
    )
