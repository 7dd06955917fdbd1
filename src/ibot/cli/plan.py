"""`ibot plan`: what a run will do and need, from the settings, the data and a short trial."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibot.cli.parser import Commands
from ibot.cli.train import asked_by, declare_run, sayer


def declare(commands: Commands) -> None:
    """Declare `ibot plan`."""
    summary = "what a run would do and need: time, memory, disk, by a short trial"
    declare_run(commands.add("plan", summary, run))


def run(options: argparse.Namespace) -> None:
    """Print the plan; train a few steps for it, and keep nothing."""
    from ibot.studies.settings import prepare

    prepared = prepare(asked_by(options), say=sayer(options))
    from ibot.config.resolve import derive
    from ibot.studies.plan import lines, make_plan
    from ibot.studies.pretraining import describe

    config, source = prepared.config, prepared.source
    folder = Path(options.run_folder or "runs/...")
    derived = derive(config, len(source))
    describe(config, derived, source, folder=folder, world_size=1, say=print)
    for note in prepared.notes:
        print(f"note   {note}")
    for line in lines(make_plan(config, source)):
        print(line)
