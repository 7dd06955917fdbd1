"""Arguments that several commands have, and what reads their values. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ibot.config.override import parse
from ibot.config.reading import MAX_PIXELS
from ibot.eval.request import FEATURE_CACHE
from ibot.weights.forms import NAMES


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
FORMS = "list, tar or Parquet files, Hugging Face folder, .npy, zarr, or NAME:DIR"
"""What images may lie in beside plain folders, as help texts say it."""
NATURAL = _number(int, "a whole number of at least 0", lambda number: number >= 0)
LENGTH = _number(float, "a number above 0", lambda number: number > 0)
SHARE = _number(float, "a share above 0 and below 1, such as 0.2", lambda number: 0 < number < 1)
COSINE = _number(float, "a cosine in 0..1", lambda number: 0 <= number <= 1)


def list_of(read: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    """What reads numbers between commas, each by `read`."""
    return lambda text: tuple(read(part) for part in text.split(","))


def add_settings(parser: argparse.ArgumentParser, form: str, words: str) -> None:
    """Assignments `key=value`, as many as are given."""
    # Without a default it would be named among what is missing.
    parser.add_argument("settings", nargs="*", default=(), metavar=form, help=words)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Images to train on, and labelled ones to measure with."""
    data = f"folder of images, {FORMS}"
    parser.add_argument("--data", default="", metavar="DATA", help=data)
    val_data = "labelled images for validation"
    parser.add_argument("--val-data", default="", metavar="DATA", help=val_data)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Images that a network looks at, labelled or not."""
    data = f"folder, {FORMS}; of one with train/ and val/ only train/ is read"
    parser.add_argument("--data", required=True, metavar="DATA", help=data)


def add_length(parser: argparse.ArgumentParser, steps: str, epochs: str) -> None:
    """How long to train; `steps` and `epochs` are the help texts."""
    parser.add_argument("--steps", type=COUNT, metavar="N", help=steps)
    parser.add_argument("--epochs", type=LENGTH, metavar="E", help=epochs)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Number of processes, which `cli.main` starts."""
    words = "share the work among N processes on this machine: one per GPU, or parts of a CPU"
    parser.add_argument("--processes", type=COUNT, metavar="N", help=words)


def add_device(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Where to compute; None leaves it to the settings."""
    words = "auto, cpu, cuda, cuda:N, mps"
    parser.add_argument("--device", default=default, metavar="D", help=words)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Where features are kept, and who decodes the images for them."""
    words = "features on disk (default: %(default)s)"
    parser.add_argument("--cache", default=FEATURE_CACHE, metavar="DIR", help=words)
    workers = "processes that decode images"
    parser.add_argument("--workers", type=NATURAL, default=0, metavar="N", help=workers)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """A network, and how it is to see images."""
    add_network(parser)
    size = "view; default: as in training"
    parser.add_argument("--size", type=COUNT, default=0, metavar="PIXELS", help=size)
    add_windows(parser)
    add_reading(parser)
    add_device(parser, "auto")


def add_windows(parser: argparse.ArgumentParser) -> None:
    """In which windows images are seen."""
    window = "see large images in windows of so many pixels, side by side (default: as in training)"
    parser.add_argument("--window", type=COUNT, default=0, metavar="PIXELS", help=window)
    content = "leave out windows with less tissue or valid pixels (default: as in training)"
    parser.add_argument("--window-content", type=SHARE, default=0.0, metavar="SHARE", help=content)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How files of images are read."""
    most = "read images of up to N pixels (default: %(default)s)"
    parser.add_argument("--max-pixels", type=COUNT, default=MAX_PIXELS, metavar="N", help=most)
    add_channels(parser, "the network's")
    turn = "turn pictures upright by their EXIF tag, or not, as published (default: apply)"
    choices = ("apply", "ignore")
    parser.add_argument("--exif-orientation", choices=choices, default="apply", help=turn)


def add_channels(parser: argparse.ArgumentParser, default: str) -> None:
    """Which channels of images are read; `default` says which else."""
    channels = f"channels that are read, by names or numbers (default: {default})"
    parser.add_argument("--channels", default="", metavar="NAMES", help=channels)
    files = "where each channel has a file: a pattern as {name}_{channel}.tif"
    parser.add_argument("--channel-files", default="", metavar="PATTERN", help=files)
    no_data = "values that mean that nothing was measured"
    parser.add_argument("--no-data", default="", metavar="VALUES", help=no_data)


def add_network(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Which network to read, and how; `more` words of what may be named."""
    weights = f"run folder, checkpoint folder, weights file or name ({NAMES}) {more}".strip()
    parser.add_argument("weights", metavar="WEIGHTS_OR_RUN", help=weights)
    key = "teacher, student, or another that `ibot weights inspect` names (default: teacher)"
    parser.add_argument("--key", default="teacher", metavar="KEY", help=key)
    heads = "attention heads of a ViT, if the file does not say"
    parser.add_argument("--heads", type=COUNT, metavar="N", help=heads)
    partial = "accept missing and unused tensors"
    parser.add_argument("--allow-partial", action="store_true", help=partial)
