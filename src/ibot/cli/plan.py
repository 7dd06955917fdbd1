"""`ibot plan`: what a run will do and need, from the settings, the data and a short trial."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibot.cli.arguments import COUNT
from ibot.cli.parser import Commands
from ibot.cli.train import asked_by, declare_run, sayer


def declare(commands: Commands) -> None:
    """Declare `ibot plan`."""
    summary = "what a run would do and need: time, memory, disk, by a short trial"
    parser = commands.add("plan", summary, run)
    declare_run(parser)
    # Not named `processes`, which starts them: one tries what each of them would do.
    words = "reckon for N processes, one per GPU, that share train.batch; none is started"
    parser.add_argument("--processes", dest="shares", type=COUNT, metavar="N", help=words)


def run(options: argparse.Namespace) -> None:
    """Print the plan; train a few steps for it, and keep nothing."""
    from ibot.studies.settings import prepare

    processes = options.shares or 1
    prepared = prepare(asked_by(options), processes, sayer(options))
    from ibot.config.resolve import derive
    from ibot.studies.plan import lines, make_plan
    from ibot.studies.pretraining import describe

    config, source = prepared.config, prepared.source
    folder = Path(options.run_folder or "runs/...")
    derived = derive(config, len(source), processes)
    describe(config, derived, source, folder=folder, world_size=processes, say=print)
    for note in prepared.notes:
        print(f"note   {note}")
    for line in lines(make_plan(config, source, processes)):
        print(line)
