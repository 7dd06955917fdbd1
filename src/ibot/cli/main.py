"""The `ibot` command. Heavy packages are imported by what runs, so that --help answers at once."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module

import ibot
from ibot.cli.parser import Commands, Parser, check_words
from ibot.cli.refused import lack, refusal
from ibot.errors import INTERRUPTED, IbotError, ResourceError
from ibot.system.output import Output, unwatched
from ibot.system.portable import name_user
from ibot.system.processes import launched_processes
from ibot.system.waiting import spin_shortly

EPILOG = """\
first steps:  ibot demo                       generated images, four to six minutes
              ibot pretrain auto --data DIR   on your own images
              ibot eval knn RUN --data DIR    measure what it learnt
settings:     section.key=value, as listed by ibot recipes show NAME
"""
MODULES = (
    "demo",
    "train",
    "plan",
    "launch",
    "evaluate",
    "features",
    "predict",
    "data",
    "search",
    "show",
    "index",
    "explore",
    "results",
    "report",
    "weights",
    "ablate",
    "recipes",
    "doctor",
)
"""Modules of this package that declare commands, in the order of the help."""
LISTS = (
    "ibot recipes",
    "ibot results",
    "ibot plan",
    "ibot launch",
    "ibot doctor",
    "ibot weights inspect",
    "ibot weights list",
)
"""Commands that only print, beside the lists of `ibot ablate`."""

PIPE_CLOSED = 141
"""Exit code of a list whose reader left: 128 and the number of SIGPIPE, where there is one."""


@cache  # it has a thousand options, and who calls `main` twice asks for it twice
def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="ibot",
        description="iBOT: image BERT pre-training with an online tokenizer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ibot {ibot.__version__}")
    commands = Commands(parser, title="commands", metavar="COMMAND")
    # By name: the contract on heavy imports counts those inside of functions too.
    for name in MODULES:
        import_module(f"ibot.cli.{name}").declare(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0 done, 1 a bug, 2 user error, 3 training stopped, 4 out of disk or memory, 75 a training that a
    signal ended, saved and not done, 130 Ctrl-C; for what only prints, 141 when its reader left, as
    `| head` does, and 4 when the text could not be written.
    """
    if "torch" not in sys.modules:  # else it is too late
        spin_shortly()
    options = argparse.Namespace(traceback=False)
    name_user()
    with unwatched() as output:
        try:
            code = _run(options, arguments)
        except IbotError as error:
            if options.traceback:
                raise
            return _report(error)
        except KeyboardInterrupt:
            if launched_processes().is_main:
                print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return code or _undelivered(options, output)


def _run(options: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    """Fill `options` and run the command that they name; returns its exit code.

    It runs in several processes if it knows them and they are asked for.
    """
    _, extra = build_parser().parse_known_args(arguments, options)
    check_words(options, extra)

    def command() -> int:
        with _refusals(options):  # here too: a process tells the others what they can read
            return options.run(options) or 0

    if "processes" not in options:
        return command()
    with _refusals(options):
        return import_module("ibot.system.launch").run_together(
            options.processes, sys.argv[1:] if arguments is None else arguments, command
        )


@contextmanager
def _refusals(options: argparse.Namespace) -> Iterator[None]:
    """What the system refuses, raised as an error with a remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (resource := lack(error)) is None:
            raise
        raise resource from error
    except OSError as error:
        if (refused := refusal(error, options) or lack(error)) is None:
            raise
        raise refused from error


def _undelivered(options: argparse.Namespace, output: Output) -> int:
    """The exit code for what a command printed in vain.

    It is 0 where nothing was lost, or its files hold the results.
    """
    output.flush()
    if output.error is None:
        return 0
    why = output.error.strerror or str(output.error)
    if _only_prints(options):
        if output.error.errno == errno.EPIPE:
            return PIPE_CLOSED
        return _report(ResourceError("the output cannot be written", why=why))
    if output.error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):  # nobody reads there
        print(f"ibot: done, but what it printed could not be written: {why}", file=sys.stderr)
    return 0


def _only_prints(options: argparse.Namespace) -> bool:
    return (
        options.command.startswith(LISTS)
        or (options.command == "ibot ablate" and (options.list or not options.name))
        or (options.command == "ibot predict" and not options.out)
    )


def _report(error: IbotError) -> int:
    if not error.told:
        print(f"ibot: error: {error}", file=sys.stderr)
    return error.exit_code
