"""`ibot launch slurm`: a training as a job of a cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ibot.cli.arguments import COUNT, NATURAL
from ibot.cli.parser import Commands
from ibot.cli.train import asked_by, declare_run
from ibot.errors import UserError

GPUS = 8
"""Of a node, where nothing is said."""


def declare(commands: Commands) -> None:
    """Declare `ibot launch slurm`."""
    group = commands.add_group(
        "launch",
        summary="a training as a job of a cluster",
        description="print or submit a training as a job of a cluster",
        title="clusters",
        metavar="COMMAND",
    )
    summary = "print a job script for SLURM, or submit it: saved and queued again in time"
    parser = group.add("slurm", summary, run)
    declare_run(parser)
    parser.add_argument("--nodes", type=COUNT, default=1, metavar="N", help="machines (1)")
    gpus = f"of each node, a process for each; 0: none, one process a node ({GPUS})"
    parser.add_argument("--gpus-per-node", type=NATURAL, metavar="G", help=gpus)
    cpus = "cores of each process, which decode images (12)"
    parser.add_argument("--cpus-per-task", type=COUNT, default=12, metavar="C", help=cpus)
    time = "of one turn in the queue; it takes as many as it needs (24:00:00)"
    parser.add_argument("--time", default="24:00:00", metavar="T", help=time)
    name = "of the job (default: that of the run folder)"
    parser.add_argument("--job-name", default="", metavar="NAME", help=name)
    more = "any other option of sbatch, such as partition=long; as often as wanted"
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help=more)
    parser.add_argument("--submit", action="store_true", help="hand it to sbatch at once")


def run(options: argparse.Namespace) -> None:
    """Print the script, or what sbatch answers."""
    from ibot.system.slurm import Job, job_script, submit

    if not options.run_folder:
        raise UserError(
            "a job needs the folder of its run",
            why="it goes on there when its turn comes again",
            fix="such as --run runs/photos, where all nodes see it",
        )
    job = Job(
        name=options.job_name or Path(options.run_folder).resolve().name,
        nodes=options.nodes,
        gpus=GPUS if options.gpus_per_node is None else options.gpus_per_node,
        cpus=options.cpus_per_task,
        time=options.time,
        more=tuple(options.sbatch),
    )
    _check(options, job.nodes * job.tasks)
    script = job_script(job, ["ibot", "pretrain", *words_of(options)])
    if options.gpus_per_node is None and not options.quiet:
        # Not into the script, which goes to a file.
        print(f"note   {GPUS} GPUs a node: --gpus-per-node N for others", file=sys.stderr)
    print(submit(script) if options.submit else script, end="\n" if options.submit else "")


def _check(options: argparse.Namespace, processes: int) -> None:
    """Refuse now what the job would refuse when its turn comes, as far as that needs no images."""
    from ibot.config.override import apply
    from ibot.config.resolve import check, check_shares
    from ibot.recipes import recipe
    from ibot.studies.going_on import is_run

    asked = asked_by(options)
    begun = is_run(asked.folder)
    name = options.run_folder if begun else asked.recipe
    if name is None or (Path(name).name != name and not Path(name).exists()):
        return  # a run that lies where the job will be
    if name == "auto":  # it chooses the rest when it sees images and device
        apply(recipe("tiny32"), asked.settings)
        return
    config = apply(recipe(name, beside=["auto"]), asked.settings)
    if not config.train.init:  # weights bring their own network and sizes
        check(config)
    if not config.data.path and not Path(options.run_folder).exists():
        raise UserError("a new run needs images", fix="--data DIR, where the nodes see it")
    check_shares(config.train, processes, begun=begun)


def words_of(options: argparse.Namespace) -> list[str]:
    """The arguments of a run that `options` hold, as a command line has them."""
    described = argparse.ArgumentParser(add_help=False)
    declare_run(described)
    words = [options.recipe] if options.recipe else []
    for action in described._actions:
        value: Any = getattr(options, action.dest)
        if action.option_strings and value != action.default:
            text = f"{value:.15g}" if isinstance(value, float) else str(value)
            words += [action.option_strings[0], *([] if value is True else [text])]
    words += ["--quiet"] if options.quiet else []
    return [*words, *options.settings]
