"""A network before and after its training, beside controls that learn nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ibot.config.schema import Config
from ibot.data.sets.images import LabelledImages
from ibot.eval.features.spectrum import effective_rank, whiten
from ibot.eval.features.tokens import Features, extract_features
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.models.contract import Backbone
from ibot.models.plain import Colours, Pixels
from ibot.studies.compared import KNN, Comparison
from ibot.system.progress import Progress, no_progress
from ibot.types import ResultRecord

WHITENED_DIMS = (8, 16, 32, 64)
RANDOM, WHITENED = "random network", "random, whitened"
PIXELS, COLOURS, COLOURS_WHITENED = "raw pixels", "colours", "colours, whitened"
"""What has learnt nothing, as it is called in `Compared.levels`."""

Sets = tuple[LabelledImages, LabelledImages]
"""Training and validation images with labels."""


class Compared(NamedTuple):
    """The networks of a training and raw pixels."""

    levels: dict[str, float]
    """Name -> accuracy of what has learnt nothing, for the picture."""
    found: Comparison
    """The pre-trained network beside them."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What k-NN makes of a network's features; accuracies in per cent."""

    plain: float
    white: dict[int, float]
    """By the dimensions that whitening leaves."""
    rank: float
    """Effective rank of the features."""

    def line(self, name: str, width: int = 16) -> str:
        """A line of the table, whose names take `width` letters."""
        white = "".join(f"{value:10.1f}" for value in self.white.values())
        return f"{name:{width}}{self.plain:7.1f}{white}{self.rank:8.1f}"


def scores(backbone: Backbone, sets: Sets, config: Config) -> Scores:
    """k-NN of the validation images among the training images."""
    bank, queries = (
        extract_features(backbone, part, size=config.augment.global_size) for part in sets
    )
    white = {}
    for dims in _dims(config):
        first, second = whiten(bank.cls, queries.cls, dims)
        white[dims] = accuracy(replace(bank, cls=first), replace(queries, cls=second), config)
    return Scores(accuracy(bank, queries, config), white, effective_rank(queries.cls))


def _dims(config: Config) -> list[int]:
    return [dims for dims in WHITENED_DIMS if dims <= config.model.width]


def accuracy(bank: Features, queries: Features, config: Config) -> float:
    """Top-1 of the vote among the features as they are, l2-normalised."""
    k, temperature = config.evaluate.k, config.evaluate.temperature
    return knn_accuracy(bank, test=queries, ks=k, temperature=temperature)[k].top1


def pixel_accuracy(sets: Sets, config: Config) -> float:
    """The same vote among raw pixels, standardised one by one over the training images."""
    pixels = Pixels(config.model.statistics, config.model.channels)
    bank, queries = (
        extract_features(pixels, part, size=config.augment.global_size) for part in sets
    )
    pixels.fitted(bank.cls)
    bank, queries = (replace(part, cls=pixels.standardised(part.cls)) for part in (bank, queries))
    return accuracy(bank, queries, config)


def print_comparison(
    before: Backbone,
    after: Backbone,
    sets: Sets,
    config: Config,
    progress: Progress = no_progress,
) -> Compared:
    """Print the scores of both networks, of histograms of colours, and of raw pixels."""
    measured = []
    for backbone in (before, after, Colours(config.model.statistics, config.model.channels)):
        measured.append(scores(backbone, sets, config))
        progress(len(measured), 4)
    untrained, trained, colours = measured
    pixels = pixel_accuracy(sets, config)
    progress(4, 4)
    chance = 100 / len(sets[0].classes)
    beside = f"chance {chance:.0f}, raw pixels {pixels:.1f}"
    print(f"\nk-NN accuracy, %, k = {config.evaluate.k} ({beside})")
    print(_titles(_dims(config)))
    print(untrained.line("random network"))
    print(colours.line(COLOURS))
    print(trained.line("pre-trained"))
    best = max(untrained.white.values())
    print(f"gain over the random network's best whitening {trained.plain - best:+.1f}")
    levels = {
        RANDOM: untrained.plain,
        WHITENED: best,
        PIXELS: pixels,
        COLOURS: colours.plain,
        COLOURS_WHITENED: max(colours.white.values()),
    }
    values = {
        "now": trained.plain,
        "random": untrained.plain,
        "pixels": pixels,
        "colours": colours.plain,
    }
    records = {name: _record(value, sets) for name, value in values.items()}
    return Compared(levels, Comparison(now=records.pop("now"), beside=records))


def _record(value: float, sets: Sets) -> ResultRecord:
    train, val = map(len, sets)
    return ResultRecord(
        protocol="knn", metric=KNN, value=value, settings={}, num_train=train, num_val=val
    )


def _titles(dims: Sequence[int]) -> str:
    return f"{'':16}{'plain':>7}" + "".join(f"{f'white {d}':>10}" for d in dims) + f"{'rank':>8}"
