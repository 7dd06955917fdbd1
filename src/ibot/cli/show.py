"""`ibot show`: pictures of what a network has learned."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path

from ibot.cli.arguments import (
    COSINE,
    COUNT,
    NATURAL,
    SHARE,
    add_device,
    add_network,
    add_reading,
    list_of,
)
from ibot.cli.parser import Commands
from ibot.config.schema import Config
from ibot.errors import UserError
from ibot.recipes import recipe
from ibot.show.pictures import PICTURES, Kind, Option
from ibot.words import encodable

READERS = {
    "count": COUNT,
    "natural": NATURAL,
    "numbers": list_of(NATURAL),
    "share": SHARE,
    "cosine": COSINE,
    "text": str,
    "choice": str,
}


def declare(commands: Commands) -> None:
    """Declare `ibot show` and its pictures."""
    pictures = commands.add_group(
        "show",
        summary="pictures of attention, features, words, matches, augmentation",
        description="Draw what a network makes of images, each beside the image, as PNG or SVG.",
        title="pictures",
        metavar="PICTURE",
    )
    for name, kind in PICTURES.items():
        parser = pictures.add(name, kind.summary, partial(run, name))
        add_network(parser, "or a recipe" if kind.recipe else "")
        _add_images(parser, kind)
        for option in kind.options:
            _add_option(parser, option)
        out = f"folder of the pictures (default: pictures/{name} in the run, else below results/)"
        parser.add_argument("--out", default="", metavar="DIR", help=out)
        form = "PNG, or SVG with words and lines as vectors (default: %(default)s)"
        parser.add_argument("--format", choices=("png", "svg"), default="png", help=form)
        add_reading(parser)
        add_device(parser, "auto")


def _add_images(parser: argparse.ArgumentParser, kind: Kind) -> None:
    images = "image files, folders, lists, tar or Parquet files, .npy, zarr, or NAME:DIR"
    parser.add_argument("images", nargs="*", metavar="IMAGES", help=images)
    data = "the same as one more of the IMAGES, as other commands call it"
    parser.add_argument("--data", default="", metavar="DATA", help=data)
    for name in kind.takes:
        _COMMON[name](parser, kind)


def _add_size(parser: argparse.ArgumentParser, kind: Kind) -> None:
    default = "%(default)s" if kind.size else "as in training"
    size = f"the shorter side as the network sees it (default: {default})"
    parser.add_argument("--size", type=COUNT, default=kind.size, metavar="PIXELS", help=size)


def _add_fit(parser: argparse.ArgumentParser, _: Kind) -> None:
    fit = (
        "keep the aspect, squash to a square as published, or natural: the pixels of the file "
        "(default: %(default)s)"
    )
    parser.add_argument("--fit", choices=("keep", "squash", "natural"), default="keep", help=fit)


def _add_limit(parser: argparse.ArgumentParser, kind: Kind) -> None:
    limit = "of a folder draw N images; 0: all (default: %(default)s)"
    parser.add_argument("--limit", type=NATURAL, default=kind.limit, metavar="N", help=limit)


def _add_seed(parser: argparse.ArgumentParser, _: Kind) -> None:
    seed = "of that choice, and of whatever else is drawn (default: %(default)s)"
    parser.add_argument("--seed", type=NATURAL, default=0, metavar="S", help=seed)


_COMMON = {"size": _add_size, "fit": _add_fit, "limit": _add_limit, "seed": _add_seed}


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    flag = f"--{option.name}"
    if option.kind == "switch":
        parser.add_argument(flag, action="store_true", help=option.words)
        return
    parser.add_argument(
        flag,
        type=READERS[option.kind],
        default=option.default,
        choices=option.choices or None,
        metavar=None if option.choices else option.metavar,
        help=option.words,
    )


def _images_to_name(name: str, options: argparse.Namespace) -> str:
    """How to name images: those of the index, where the picture is of one and it is there."""
    if "index" not in options:
        return "name files or a folder behind the weights"
    from ibot.errors import DataError
    from ibot.vocabulary.folder import Shared, default_folder

    folder = Path(options.index) if options.index else default_folder(Path(options.weights))
    command = ["ibot", "show", name, options.weights, "--data"]
    try:
        return (
            f"those of the index in '{folder}':  {shlex.join([*command, Shared.read(folder).root])}"
        )
    except DataError:
        return f"name a folder or a set:  {shlex.join([*command, 'DIR'])}"


def _of_recipe(name: str) -> Config | None:
    """The settings of a recipe; None for what is a path, whose absence whoever opens it tells.

    Raises UserError for `auto` and for names that are no recipe.
    """
    if name == "auto":
        raise UserError(
            "auto has no settings of its own",
            why="it chooses them for the images and the machine when a training begins",
            fix="name a run that it made, or a recipe that is like it: tiny64, or one_gpu",
        )
    return None if len(Path(name).parts) > 1 else recipe(name)


def run(name: str, options: argparse.Namespace) -> None:
    """Draw one picture of the table, and say where it is."""
    from ibot.eval.opened import default_out
    from ibot.show.asked import Asked
    from ibot.show.inputs import check_folder
    from ibot.weights.forms import is_named

    kind = PICTURES[name]
    out = Path(options.out) if options.out else default_out(Path(options.weights)) / "pictures"
    own = {option.name.replace("-", "_") for option in kind.options}
    given = {f.name: getattr(options, f.name) for f in fields(Asked) if f.name in options}
    images = tuple(filter(None, [*options.images, options.data]))
    if kind.images == "+" and not images:
        raise UserError("no images named", fix=_images_to_name(name, options))
    place = out if options.out else out / name
    given |= {"images": images, "out": place, "picture": name}
    there = is_named(options.weights) or Path(options.weights).exists()
    config = None if there or not kind.recipe else _of_recipe(options.weights)
    asked = Asked(**given, config=config, options={key: getattr(options, key) for key in own})
    check_folder(asked.out)
    drawn = import_module(f"ibot.show.{kind.module}").draw(asked)
    for line in drawn.lines:
        print(encodable(line))
    if drawn.files:
        more = f" and {len(drawn.files) - 1} more" if drawn.files[1:] else ""
        print(encodable(f"pictures:         {drawn.files[0]}{more}"))
