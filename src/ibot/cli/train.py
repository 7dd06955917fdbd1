"""`ibot pretrain`, and the arguments of a run, which `ibot plan` has too."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.arguments import (
    NATURAL,
    add_data,
    add_device,
    add_length,
    add_processes,
    add_settings,
)
from ibot.cli.parser import Commands
from ibot.errors import STOPPED
from ibot.system.processes import launched_processes
from ibot.weights.forms import NAMES

if TYPE_CHECKING:
    from ibot.studies.settings import Asked, Say


def declare(commands: Commands) -> None:
    """Declare `ibot pretrain`."""
    parser = commands.add("pretrain", "pre-train on a folder of images", run)
    declare_run(parser)
    add_processes(parser)


def declare_run(parser: argparse.ArgumentParser) -> None:
    """What describes a run."""
    recipe = (
        "a name from `ibot recipes list`, a run's config.json, or auto: chosen from the data "
        "and the device; not needed with a --run that exists"
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=recipe)
    add_data(parser)
    folder = "run folder; one that exists goes on with its own settings and images"
    parser.add_argument("--run", dest="run_folder", metavar="DIR", help=folder)
    longer = 'make the run in --run longer: its length in all, such as "40 epochs"'
    parser.add_argument("--extend-to", default="", metavar="LENGTH", help=longer)
    accept = "go on with the images as they are now, though some of before are gone"
    parser.add_argument("--accept-images", action="store_true", help=accept)
    add_length(
        parser,
        steps="stop after N steps, schedules unchanged",
        epochs="length of the run and its schedules",
    )
    seed = "seed of everything random"
    parser.add_argument("--seed", type=NATURAL, metavar="S", help=seed)
    add_device(parser)
    init = f"start from weights: a run, a file of any known project, or a name: {NAMES}"
    parser.add_argument("--init", metavar="WEIGHTS", help=init)
    add_settings(parser, "section.key=value", "any other setting")


def run(options: argparse.Namespace) -> int:
    """Pre-train, or resume; prints what will be done before and where the results are after.

    Returns the exit code: of several processes the main one, which ends last, says that a signal
    stopped them, else launchers would end it for the others' sake.
    """
    from ibot.studies.settings import prepare

    prepared = prepare(asked_by(options), launched_processes().world_size, sayer(options))
    from ibot.studies.pretraining import pretrain

    command = shlex.join(["ibot", *sys.argv[1:]])
    done = pretrain(prepared, command=command, steps_option=options.steps, quiet=options.quiet)
    return 0 if done or not launched_processes().is_main else STOPPED


def asked_by(options: argparse.Namespace) -> Asked:
    """The recipe with the command line's settings; short options are other names of settings."""
    from ibot.studies.settings import Asked

    short = {
        "data.path": options.data,
        "data.val_path": options.val_data,
        "train.max_steps": options.steps,
        "train.length": None if options.epochs is None else f"{options.epochs:g} epochs",
        "train.seed": options.seed,
        "system.device": options.device,
        "train.init": options.init,
    }
    given = [f"{key}={value}" for key, value in short.items() if value not in (None, "")]
    folder = Path(options.run_folder) if options.run_folder else None
    return Asked(
        options.recipe,
        (*given, *options.settings),
        folder,
        extend_to=options.extend_to,
        accept_images=options.accept_images,
    )


def sayer(options: argparse.Namespace) -> Say:
    """Prints lines for the user: those of one process, and none with --quiet."""
    heard = launched_processes().is_main and not options.quiet
    return print if heard else lambda text: None
