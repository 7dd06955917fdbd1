"""`ibot demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibot.cli.arguments import NATURAL
from ibot.cli.parser import Commands


def declare(commands: Commands) -> None:
    """Declare `ibot demo`."""
    parser = commands.add("demo", "pre-train on generated images and show what was learnt", run)
    out = "run folder (default: %(default)s)"
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help=out)
    seed = "seed of images and training"
    parser.add_argument("--seed", type=NATURAL, default=0, metavar="S", help=seed)
    paper = "the paper's losses alone, without options beyond it"
    parser.add_argument("--paper", action="store_true", help=paper)
    controls = "also train the controls (KoLeo alone, class loss alone, and others)"
    parser.add_argument("--controls", action="store_true", help=controls)


def run(options: argparse.Namespace) -> None:
    """Carry out the demo."""
    from ibot.studies.demo import demo

    demo(
        Path(options.out),
        seed=options.seed,
        paper=options.paper,
        controls=options.controls,
        quiet=options.quiet,
    )
