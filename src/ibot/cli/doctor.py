"""`ibot doctor`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ibot.cli.parser import Commands
from ibot.errors import UserError


def declare(commands: Commands) -> None:
    """Declare `ibot doctor`."""
    summary = "what this machine offers, and what is missing"
    parser = commands.add("doctor", summary, run)
    parser.add_argument("--json", action="store_true", help="the same as JSON, for programs")


def run(options: argparse.Namespace) -> int:
    """Print what was found, with advice where something is missing; 2 where nothing would work."""
    from ibot.cli.checkup import checks

    found = list(checks())
    broken = [check.name for check in found if check.fatal]
    if options.json:
        whole = {"works": not broken, "checks": [asdict(check) for check in found]}
        print(json.dumps(whole, indent=2))
        return UserError.exit_code if broken else 0
    for check in found:
        print(f"{check.name:15}{check.found}")
        if check.advice:
            print(f"{'':15}-> {check.advice}")
    if broken:
        print(f"{'verdict':15}nothing works before this is mended: {', '.join(broken)}")
        return UserError.exit_code
    print(
        f"{'verdict':15}ready; next: ibot pretrain auto --data DIR{_place()}   on your own images"
    )
    return 0


def _place() -> str:
    """What the next command needs where nothing can be made in the current folder."""
    from ibot.system.places import is_writable

    try:
        return "" if is_writable(Path.cwd()) else " --run DIR"
    except OSError:  # it was removed
        return " --run DIR"
