"""The `ibot` command. Heavy packages are imported by the commands that need them, so that --help
answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import getpass
import os
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import ibot
from ibot.cli.refused import lack, refusal
from ibot.config.override import items, parse, settings_of
from ibot.config.schema import MAX_PIXELS, Config
from ibot.errors import INTERRUPTED, IbotError, ResourceError, UserError
from ibot.eval.registry import EVALUATIONS
from ibot.eval.request import FEATURE_CACHE
from ibot.system.output import Output, unwatched
from ibot.system.processes import launched_processes
from ibot.system.waiting import spin_shortly
from ibot.weights.suffixes import SUFFIXES

EPILOG = """\
first steps:  ibot demo                       generated images, six minutes
              ibot pretrain auto --data DIR   on your own images
              ibot eval knn RUN --data DIR    measure what it learnt
settings:     section.key=value, as listed by ibot recipes show NAME
"""
LISTS = ("ibot recipes", "ibot results", "ibot plan", "ibot doctor", "ibot weights inspect")
"""Commands that only print, beside the lists of `ibot ablate`."""
KINDS = ("COMMAND", "PROTOCOL", "ACTION")
"""What stands for the names of commands."""
OF_ALL = ("--again", "--skip")
"""Options of `ibot eval all` alone."""
HELP_WIDTH = 78
"""Letters of a line of the settings that end a help text."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like all others, without the usage of every option before them."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError, with the nearest name where there is none such; without a command's
        name, show the help.
        """
        if message.endswith(tuple(f"required: {kind}" for kind in KINDS)):
            self.print_help(sys.stderr)
            self.exit(UserError.exit_code)
        fix = f"{self.prog} --help"
        if chosen := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            nearest = difflib.get_close_matches(chosen[1], re.findall(r"[\w-]+", chosen[2]), 1)
            fix = f"did you mean {nearest[0]}?   {fix}" if nearest else fix
        raise UserError(message.removeprefix("argument "), fix=fix)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    0 done, 1 a bug, 2 user error, 3 training stopped, 4 out of disk or memory, 130 Ctrl-C; for what
    only prints, 141 when its reader left, as `| head` does, and 4 when the text could not be
    written.
    """
    if "torch" not in sys.modules:  # else it is too late
        spin_shortly()
    options = argparse.Namespace(traceback=False)
    _name_user()
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
    """Fill `options` and run the command that they name; returns its exit code."""
    _, extra = build_parser().parse_known_args(arguments, options)
    has_settings = hasattr(options, "settings")
    options.settings = [*getattr(options, "settings", ()), *extra]
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
    return _carry_out(options, sys.argv[1:] if arguments is None else arguments)


def _meant(options: argparse.Namespace, unknown: Sequence[str], has_settings: bool) -> str:
    """A remedy for words that are no options: settings are written without dashes, whole or by
    their last name.
    """
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
    return (
        f"write {' or '.join(shlex.quote(f'{key}={value}') for key in meant)}" if meant else advice
    )


def _is_option(text: str) -> bool:
    return text.startswith("--")


def _carry_out(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run the command of `options`, in several processes if it knows them and they are asked
    for.
    """

    def command() -> int:
        module, function = options.run
        with _refusals(options):  # here too: a process tells the others what they can read
            return getattr(import_module(module), function)(options) or 0

    if "processes" not in options:
        return command()
    with _refusals(options):
        return import_module("ibot.system.launch").run_together(
            options.processes, arguments, command
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
    """The exit code for what a command printed in vain; 0 where nothing was lost, or its files hold
    the results.
    """
    output.flush()
    if output.error is None:
        return 0
    why = output.error.strerror or str(output.error)
    if _only_prints(options):
        if output.error.errno == errno.EPIPE:
            return 128 + signal.SIGPIPE
        return _report(ResourceError("the output cannot be written", why=why))
    if output.error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):  # nobody reads there
        print(f"ibot: done, but what it printed could not be written: {why}", file=sys.stderr)
    return 0


def _only_prints(options: argparse.Namespace) -> bool:
    return options.command.startswith(LISTS) or (
        options.command == "ibot ablate" and (options.list or not options.name)
    )


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = Parser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error was raised")
    common.add_argument("--quiet", action="store_true", help="print results and errors only")
    parser = Parser(
        prog="ibot",
        description="iBOT: image BERT pre-training with an online tokenizer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ibot {ibot.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, summary: str, module: str, function: str, to: object = commands
    ) -> argparse.ArgumentParser:
        made = to.add_parser(name, help=summary, description=summary, parents=[common])  # pyright: ignore
        made.set_defaults(run=(f"ibot.cli.{module}", function), command=made.prog)
        return made

    demo = command("demo", "pre-train on generated images and show what was learnt", "demo", "run")
    demo.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="run folder (default: %(default)s)"
    )
    demo.add_argument(
        "--seed", type=NATURAL, default=0, metavar="S", help="seed of images and training"
    )
    demo.add_argument(
        "--paper", action="store_true", help="the paper's losses alone, without options beyond it"
    )
    demo.add_argument(
        "--controls",
        action="store_true",
        help="also train the controls (KoLeo alone, class loss alone)",
    )

    pretrain = command("pretrain", "pre-train on a folder of images", "train", "run")
    plan = command(
        "plan", "what a run would do and need: time, memory, disk, by a short trial", "plan", "run"
    )
    for parser_of_run in (pretrain, plan):
        _run_arguments(parser_of_run)
    _processes_argument(pretrain)

    evaluation = commands.add_parser(
        "eval", help="evaluate a backbone", description="Evaluate a backbone."
    )
    protocols = evaluation.add_subparsers(title="protocols", metavar="PROTOCOL", required=True)
    for name, protocol in EVALUATIONS.items():
        made = command(name, protocol.summary, "evaluate", "run", protocols)
        made.set_defaults(protocol=name)
        made.allow_abbrev = False  # --k would be --key, where the setting k is meant
        made.epilog, made.formatter_class = (
            _listed(protocol.settings),
            argparse.RawDescriptionHelpFormatter,
        )
        _evaluation_arguments(made)
        _settings_argument(made, "key=value", "settings of the protocol, listed below")
    every = command("all", "every protocol that the data allow", "evaluate", "run_all", protocols)
    _evaluation_arguments(every)
    every.add_argument(
        "--again", action="store_true", help="repeat what has records of the same evaluation"
    )
    every.add_argument("--skip", default="", metavar="NAME[,NAME]", help="protocols to leave out")

    features = command(
        "features", "write class tokens (and patch tokens) with file names", "features", "run"
    )
    _weights_arguments(features)
    data = "folder of images; of one with train/ and val/ only train/ is read"
    features.add_argument("--data", required=True, metavar="DIR", help=data)
    features.add_argument("--out", required=True, metavar="FILE", help=".npz or .safetensors")
    features.add_argument("--patches", action="store_true", help="write patch tokens too")
    # argparse may part --out from FILE
    features.usage = "%(prog)s [options] WEIGHTS_OR_RUN --data DIR --out FILE"

    _search_arguments(
        command("search", "nearest images and patches, near-duplicates, outliers", "search", "run")
    )
    _results_arguments(
        command("results", "results of runs and weights side by side", "results", "run")
    )

    _weights_commands(commands, command)

    ablate = command("ablate", "a table of the paper's ablations on your data", "ablate", "run")
    ablate.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="the table; without it, list them"
    )
    _data_arguments(ablate)
    ablate.add_argument(
        "--recipe", default="ablation_base", metavar="RECIPE", help="base (default: %(default)s)"
    )
    ablate.add_argument(
        "--run",
        dest="run_folder",
        metavar="DIR",
        help="folder of the runs; the same command resumes",
    )
    ablate.add_argument(
        "--seeds", type=_list_of(NATURAL), default=(0,), metavar="S[,S]", help="seeds (default: 0)"
    )
    ablate.add_argument("--steps", type=COUNT, metavar="N", help="stop each run after N steps")
    ablate.add_argument(
        "--epochs", type=LENGTH, metavar="E", help="length of each run and its schedules"
    )
    ablate.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:N, mps")
    ablate.add_argument(
        "--list", action="store_true", help="print the commands, one per job, and run nothing"
    )
    ablate.set_defaults(settings=())  # for all rows

    recipes = commands.add_parser(
        "recipes", help="list, show and compare recipes", description="Named configurations."
    )
    actions = recipes.add_subparsers(title="actions", metavar="ACTION", required=True)
    command("list", "all recipes, what each is for", "recipes", "list_all", actions)
    shown = command("show", "every setting of a recipe with its source", "recipes", "show", actions)
    shown.add_argument("name", metavar="RECIPE|RUN")
    compared = command(
        "diff", "settings in which two recipes or runs differ", "recipes", "compare", actions
    )
    compared.add_argument("first", metavar="A")
    compared.add_argument("second", metavar="B")

    explained = command(
        "why",
        "what a setting means, its unit and where its value comes from",
        "recipes",
        "why",
        actions,
    )
    explained.add_argument("key", metavar="section.key")

    command("doctor", "what this machine offers", "doctor", "run")
    return parser


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    recipe = (
        "a name from `ibot recipes list`, a run's config.json, or auto: chosen from the data "
        "and the device"
    )
    parser.add_argument("recipe", metavar="RECIPE", help=recipe)
    _data_arguments(parser)
    parser.add_argument(
        "--run", dest="run_folder", metavar="DIR", help="run folder; the same command resumes it"
    )
    parser.add_argument(
        "--steps", type=COUNT, metavar="N", help="stop after N steps, schedules unchanged"
    )
    parser.add_argument(
        "--epochs", type=LENGTH, metavar="E", help="length of the run and its schedules"
    )
    parser.add_argument("--seed", type=NATURAL, metavar="S", help="seed of everything random")
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:N, mps")
    parser.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="start from weights: a run, or a file of any known project",
    )
    _settings_argument(parser, "section.key=value", "any other setting")


def _weights_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    weights = commands.add_parser(
        "weights",
        help="inspect, convert and export weights",
        description="Weights of this and other projects.",
    )
    actions = weights.add_subparsers(title="actions", metavar="ACTION", required=True)
    inspected = command("inspect", "what a file of weights holds", "weights", "inspect", actions)
    converted = command(
        "convert",
        "bring weights in: a full checkpoint goes on training",
        "weights",
        "convert",
        actions,
    )
    exported = command(
        "export",
        "write weights for another project, and compare there",
        "weights",
        "export",
        actions,
    )
    for parser in (inspected, converted, exported):
        parser.add_argument(
            "weights",
            metavar="WEIGHTS_OR_RUN",
            help="run folder, checkpoint folder or weights file",
        )
        _network_arguments(parser)
    inspected.add_argument(
        "--all", action="store_true", help="every name of the file with its shape and type"
    )
    converted.add_argument(
        "--run", dest="run_folder", required=True, metavar="DIR", help="new folder"
    )
    converted.add_argument(
        "--data", default="", metavar="DIR", help="training images; their number gives the step"
    )
    converted.add_argument(
        "--images", type=COUNT, metavar="N", help="number of training images (default: ImageNet's)"
    )
    _settings_argument(converted, "section.key=value", "settings the file does not tell")
    to = f"{', '.join(SUFFIXES)} (all of a run, published layout)"
    exported.add_argument("--to", required=True, choices=tuple(SUFFIXES), metavar="TARGET", help=to)
    out = (
        "a new folder for timm and huggingface, else a new file: .safetensors, .pth "
        "(published), .onnx"
    )
    exported.add_argument("--out", required=True, metavar="PATH", help=out)
    exported.add_argument(
        "--size", type=_list_of(COUNT), metavar="H[,W]", help="image size; default: as in training"
    )
    exported.usage = "%(prog)s [options] WEIGHTS_OR_RUN --to TARGET --out PATH"


def _number(kind: type, words: str, fits: Callable[[Any], bool]) -> Callable[[str], Any]:
    """What reads an option's value, a finite number that fits; `words` say which those are."""

    def read(text: str) -> Any:
        try:
            number = parse(text, kind)
        except ValueError:
            number = None
        if number is None or not fits(number):
            raise argparse.ArgumentTypeError(f"expected {words}, not '{text}'")
        return number

    return read


COUNT = _number(int, "a whole number of at least 1", lambda number: number >= 1)
NATURAL = _number(int, "a whole number of at least 0", lambda number: number >= 0)
LENGTH = _number(float, "a number above 0", lambda number: number > 0)
SHARE = _number(float, "a share above 0 and below 1, such as 0.2", lambda number: 0 < number < 1)
COSINE = _number(float, "a cosine in 0..1", lambda number: 0 <= number <= 1)


def _list_of(read: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    return lambda text: tuple(read(part) for part in text.split(","))


def _settings_argument(parser: argparse.ArgumentParser, form: str, words: str) -> None:
    # Without a default it would be named among what is missing.
    parser.add_argument("settings", nargs="*", default=(), metavar=form, help=words)


def _listed(settings: Any) -> str:
    """The settings of a protocol with their values, in lines that end between settings or after a
    comma.
    """
    text = "settings:  " + "  ".join(
        f"{key}={value}" for key, value in settings_of(settings)
    ).replace(",", ", ")
    lines = textwrap.wrap(
        text, HELP_WIDTH, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(line.replace(", ", ",") for line in lines)


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default="", metavar="DATA", help="folder of images, list, tar files or NAME:DIR"
    )
    parser.add_argument(
        "--val-data", default="", metavar="DATA", help="labelled images for validation"
    )


def _processes_argument(parser: argparse.ArgumentParser) -> None:
    words = "share the work among N processes on this machine: one per GPU, or parts of a CPU"
    parser.add_argument("--processes", type=COUNT, metavar="N", help=words)


def _evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    _weights_arguments(parser)
    _processes_argument(parser)
    data = (
        "class folders, with train/ and val/; a CSV list; tar files; or NAME:DIR such as "
        "cifar10:DIR"
    )
    parser.add_argument("--data", default="", metavar="DATA", help=data)
    parser.add_argument(
        "--val-data", default="", metavar="DATA", help="validation images, where --data has none"
    )
    parser.add_argument(
        "--split", type=SHARE, default=0.0, metavar="S", help="set this share aside for validation"
    )
    parser.add_argument(
        "--max-train",
        type=COUNT,
        default=0,
        metavar="N",
        help="use N evenly spaced training images",
    )
    parser.add_argument(
        "--max-val",
        type=COUNT,
        default=0,
        metavar="N",
        help="use N evenly spaced validation images",
    )
    mode = (
        "clean: choose on held-out training images; published: on the split that is reported, "
        "as the paper's tables"
    )
    parser.add_argument("--mode", choices=("clean", "published"), default="clean", help=mode)
    fit = "how images of another shape become square (default: crop)"
    parser.add_argument("--fit", choices=("crop", "squash", "pad"), default="crop", help=fit)
    parser.add_argument(
        "--seed", type=NATURAL, default=0, metavar="S", help="of splits, starts and orders"
    )
    out = "results and states to resume from (default: the run's folder, else results/NAME)"
    parser.add_argument("--out", default="", metavar="DIR", help=out)
    parser.add_argument(
        "--cache",
        default=FEATURE_CACHE,
        metavar="DIR",
        help="features on disk (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=NATURAL, default=0, metavar="N", help="processes that decode images"
    )
    parser.add_argument("--json", action="store_true", help="print records instead of a table")


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    _weights_arguments(parser)
    data = "folder of images, labelled or not; of one with train/ and val/ only train/ is read"
    parser.add_argument("--data", required=True, metavar="DIR", help=data)
    image = "whose neighbours are sought, in the folder or not (default: a few of the folder)"
    parser.add_argument(
        "--image", nargs="+", action="extend", default=[], metavar="FILE", help=image
    )
    patch = (
        "also seek patches like this one of each image; rows and columns count from 0, of the view"
    )
    parser.add_argument("--patch", default="", metavar="ROW,COLUMN", help=patch)
    parser.add_argument(
        "--k",
        type=COUNT,
        default=10,
        metavar="N",
        help="answers to each query (default: %(default)s)",
    )
    threshold = "cosine of near-duplicates, 0..1 (default: %(default)s)"
    parser.add_argument(
        "--duplicates", type=COSINE, default=0.95, metavar="THRESHOLD", help=threshold
    )
    outliers = "images to name as outliers; 0: none (default: %(default)s)"
    parser.add_argument("--outliers", type=NATURAL, default=12, metavar="N", help=outliers)
    out = (
        "search.html and search.csv (default: search/ in the run's folder, else "
        "results/NAME/search)"
    )
    parser.add_argument("--out", default="", metavar="DIR", help=out)
    parser.add_argument(
        "--cache",
        default=FEATURE_CACHE,
        metavar="DIR",
        help="features on disk (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=NATURAL, default=0, metavar="N", help="processes that decode images"
    )


def _results_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="runs, folders of results, or folders that hold such",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every record, with its date and the settings that differ",
    )
    parser.add_argument(
        "--csv", default="", metavar="FILE", help="write the table as CSV, with the 95 %% intervals"
    )
    parser.add_argument(
        "--markdown", default="", metavar="FILE", help="write the table as Markdown"
    )
    parser.add_argument(
        "--plot", default="", metavar="FILE.png", help="draw bars with the 95 %% intervals"
    )


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="WEIGHTS_OR_RUN", help="run folder, checkpoint folder or weights file"
    )
    _network_arguments(parser)
    parser.add_argument(
        "--size", type=COUNT, default=0, metavar="PIXELS", help="view; default: as in training"
    )
    most = "read images of up to N pixels (default: %(default)s)"
    parser.add_argument("--max-pixels", type=COUNT, default=MAX_PIXELS, metavar="N", help=most)
    turn = "turn pictures upright by their EXIF tag, or not, as published (default: apply)"
    parser.add_argument(
        "--exif-orientation", choices=("apply", "ignore"), default="apply", help=turn
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N, mps"
    )


def _network_arguments(parser: argparse.ArgumentParser) -> None:
    key = (
        "which network: teacher, student, or another that `ibot weights inspect` names "
        "(default: teacher)"
    )
    parser.add_argument("--key", default="teacher", metavar="KEY", help=key)
    parser.add_argument(
        "--heads",
        type=COUNT,
        metavar="N",
        help="attention heads of a ViT, if the file does not say",
    )
    parser.add_argument(
        "--allow-partial", action="store_true", help="accept missing and unused tensors"
    )


def _report(error: IbotError) -> int:
    if not error.told:
        print(f"ibot: error: {error}", file=sys.stderr)
    return error.exit_code


def _name_user() -> None:
    """Name a user whom the system does not know, as in a container with a number for a user: torch
    wants a name.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"
