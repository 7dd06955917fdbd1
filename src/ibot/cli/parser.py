"""The command line as it is read: commands, and errors that name what was meant."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ibot.config.override import items, settings_of
from ibot.config.schema import Config
from ibot.errors import UserError
from ibot.eval.registry import EVALUATIONS

KINDS = ("COMMAND", "PROTOCOL", "ACTION", "PICTURE")
"""What stands for the names of commands."""
OF_ALL = ("--again", "--skip")
"""Options of `ibot eval all` alone."""

Run = Callable[[argparse.Namespace], int | None]
"""Carries out a command: options in, exit code out, None for 0."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like all others, without the usage of every option before them."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the nearest name for one that is not known.

        Where the name of a command is missing, show the help and exit.
        """
        if message.endswith(tuple(f"required: {kind}" for kind in KINDS)):
            self.print_help(sys.stderr)
            self.exit(UserError.exit_code)
        fix = f"{self.prog} --help"
        if chosen := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            nearest = difflib.get_close_matches(chosen[1], re.findall(r"[\w-]+", chosen[2]), 1)
            fix = f"did you mean {nearest[0]}?   {fix}" if nearest else fix
        raise UserError(message.removeprefix("argument "), fix=fix)


class Commands:
    """Where commands are added: those of `ibot`, or those below one of them."""

    def __init__(self, parser: argparse.ArgumentParser, title: str, metavar: str) -> None:
        """metavar: what stands for a name, one of `KINDS`."""
        self._place = parser.add_subparsers(title=title, metavar=metavar, required=True)

    def add(self, name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        """Add a command, with the options that all have; returns its parser."""
        made = self._place.add_parser(name, help=summary, description=summary)
        made.add_argument("--traceback", action="store_true", help="show where an error was raised")
        made.add_argument("--quiet", action="store_true", help="print results and errors only")
        made.set_defaults(run=run, command=made.prog)
        return made

    def add_group(
        self, name: str, *, summary: str, description: str, title: str, metavar: str
    ) -> Commands:
        """Add a command that has commands of its own; returns the place of these."""
        made = self._place.add_parser(name, help=summary, description=description)
        return Commands(made, title, metavar)


def check_words(options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Take words that the parser left over as settings, where a command has some, and as the recipe
    where that may be left out.

    Raises UserError for what is no setting.
    """
    has_settings = hasattr(options, "settings")
    options.settings = [*getattr(options, "settings", ()), *extra]
    if hasattr(options, "recipe") and has_settings:
        _place_recipe(options)
    unknown = [
        text
        for text in options.settings
        if text.startswith("-") or "=" not in text or not has_settings
    ]
    if unknown:
        raise UserError(
            f"unrecognized arguments: {' '.join(unknown)}",
            fix=_meant(options, unknown, has_settings),
        )


def _place_recipe(options: argparse.Namespace) -> None:
    """Tell a recipe from settings, wherever it stands between options."""
    words = [*([] if options.recipe is None else [options.recipe]), *options.settings]
    named = [i for i, text in enumerate(words) if "=" not in text and not text.startswith("-")]
    options.recipe = words.pop(named[0]) if named else None
    options.settings = words


def _meant(options: argparse.Namespace, unknown: Sequence[str], has_settings: bool) -> str:
    """A remedy for words that are no options: settings are written whole and without dashes."""
    advice = f"{options.command} --help"
    name, equals, value = next(filter(_is_option, unknown), "").lstrip("-").partition("=")
    if f"--{name}" in OF_ALL and "protocol" in options:
        return f"leave out --{name}: it belongs to ibot eval all, a protocol alone always runs"
    if not name or not has_settings:
        return advice
    protocol = EVALUATIONS[options.protocol].settings if "protocol" in options else None
    known = [key for key, _ in (settings_of(protocol) if protocol is not None else items(Config()))]
    meant = [key for key in known if f".{key}".endswith(f".{name.replace('-', '_')}")]
    if not equals:  # the next word is the value
        value = next((text for text in unknown if not _is_option(text)), "VALUE")
    ways = " or ".join(shlex.quote(f"{key}={value}") for key in meant)
    return f"write {ways}" if meant else advice


def _is_option(text: str) -> bool:
    return text.startswith("--")
