"""Which network, views and length fit into a given time: forecasts turned round."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ibot.config.schema import Config, ModelConfig
from ibot.recipes.auto import ENOUGH as FEW
from ibot.studies.forecast import Forecast, micro_batches
from ibot.studies.forecast_words import feeding
from ibot.words import in_words, rate

HOURS = {"m": 1 / 60, "min": 1 / 60, "h": 1.0, "d": 24.0}
RESERVE = 0.95
"""Of the time, what the steps may take: evaluations and checkpoints need the rest."""
ENOUGH = 0.9
"""Of the images that a network should see, what will do."""
MOST_EPOCHS = 800
"""As many as published."""


@dataclass(frozen=True, slots=True)
class Size:
    """A network that is tried."""

    name: str
    width: int
    heads: int
    worth: float
    """Images that it should see to be better than a smaller one: by the lengths at which the paper
    trains them, a rule of ours that nobody measured."""
    images: int
    """Of a data set, below which it is too large for it."""


SIZES = (
    Size("ViT-T", 192, 3, 60e6, 0),
    Size("ViT-S", 384, 6, 128e6, 0),
    Size("ViT-B", 768, 12, 400e6, 500_000),
)
DEPTH = 12
SMALLEST = 400_000.0
"""Images that the recipe's own network should see, where it is smaller than these: as `tiny32`."""


def hours_of(text: str) -> float:
    """Hours of a time such as "12h", "90min" or "2d"; raises ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*(m|min|h|d)", text.strip().lower())
    if found is None or not (hours := float(found[1]) * HOURS[found[2]]) > 0:
        raise ValueError(f"'{text}' is no time; write 12h, 90min or 2d")
    return hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to spend the time."""

    name: str
    """Of the network."""
    views: str
    forecast: Forecast
    epochs: float
    """That it would see, at most `MOST_EPOCHS`."""
    reach: float
    """Images seen over those that it should see: 1 and more is enough."""

    @property
    def hours(self) -> float:
        """Of these epochs."""
        seen = self.epochs * self.forecast.images
        return seen / self.forecast.images_per_second / 3600 / RESERVE

    @property
    def fits(self) -> bool:
        """Into the device's memory."""
        return self.forecast.largest > 0


def calibrated(base: Forecast) -> Forecast:
    """For other networks too, by how much slower this one was measured to be than its formula."""
    if base.probe is None:
        return base
    formula = replace(base, probe=None)
    return replace(formula, factor=base.probe.per_image / formula.image_seconds)


def ways(base: Forecast, hours: float) -> list[Option]:
    """All ways that are tried, the chosen one first.

    Chosen is the largest network that sees enough images, with the most local views that leave it
    that; where none does, the one that comes nearest to it.
    """
    found = [
        _option(base, name, model, worth, local, hours)
        for name, model, worth in _networks(base)
        for local in _local_views(base.config)
    ]
    able = [option for option in found if option.fits] or found
    enough = [option for option in able if option.reach >= ENOUGH]
    chosen = max(enough or able, key=_size if enough else lambda option: option.reach)
    return [chosen, *(option for option in found if option is not chosen)]


def _size(option: Option) -> tuple[int, int]:
    config = option.forecast.config
    return option.forecast.parameters.student, config.augment.num_local


def _networks(base: Forecast) -> Iterator[tuple[str, ModelConfig, float]]:
    """The recipe's own, where it is none of those of `SIZES`, and these."""
    own, known = base.config.model, [size.width for size in SIZES]
    if own.kind == "swin" or own.width not in known or own.depth != DEPTH:
        worth = SMALLEST if own.kind == "vit" and own.width < known[0] else SIZES[1].worth
        name = f"{own.family} {own.width}x{own.depth}" if own.kind == "vit" else own.family
        yield name, own, worth
    if own.kind == "swin":
        return
    for size in SIZES:
        if base.images >= size.images:
            model = replace(own, width=size.width, heads=size.heads, depth=DEPTH)
            yield size.name, model, size.worth


def _local_views(config: Config) -> Sequence[int]:
    own = config.augment.num_local
    return sorted({own, own // 2, 0}, reverse=True)


def _option(
    base: Forecast, name: str, model: ModelConfig, worth: float, local: int, hours: float
) -> Option:
    augment = replace(base.config.augment, num_local=local)
    config = replace(base.config, model=model, augment=augment)
    forecast = replace(base, config=config, probe=None)
    if 0 < forecast.largest < forecast.micro_batch:
        share = forecast.micro_batch * config.train.accumulate
        parts = micro_batches(share, forecast.largest)
        train = replace(config.train, accumulate=parts)
        forecast = replace(forecast, config=replace(config, train=train))
    seen = hours * 3600 * RESERVE * forecast.images_per_second
    epochs = min(MOST_EPOCHS, seen / base.images)
    enough = min(worth, MOST_EPOCHS * base.images)
    size = config.augment.global_size[0]
    views = f"{augment.num_global} x {size}"
    if local:
        views += f" + {local} x {augment.local_size[0]}"
    reach = epochs * base.images / enough
    return Option(name=name, views=views, forecast=forecast, epochs=epochs, reach=reach)


def lines(found: Sequence[Option], hours: float, given: Sequence[str]) -> Iterator[str]:
    """The table, and the command of its first line; `given`: words of it that were asked for."""
    yield f"within {_time(hours).removeprefix('about ')}, the first line is chosen"
    yield f"{'':7}{'network':12}{'views':18}{'images/s':>9}{'epochs':>8}  takes"
    for number, option in enumerate(found):
        mark = "chosen" if number == 0 else ""
        takes = _time(option.hours) if option.fits else "-"
        speed = rate(option.forecast.images_per_second)
        row = f"{mark:7}{option.name:12}{option.views:18}{speed:>9}{_epochs(option):>8}  {takes:20}"
        yield f"{row}{why(option)}".rstrip()
    bound = [option for option in found if option.forecast.waits_for_starts]
    if bound:
        names = ", ".join(dict.fromkeys(option.name for option in bound))
        yield (
            f"note   {names}: the start of kernels limits, not what they compute, so that fewer "
            "local views save no time (estimate); a larger train.batch does"
        )
    if found[0].forecast.machine.device.gpu:
        yield f"input  {feeding(found[0].forecast)}"
    if found[0].forecast.images < FEW:
        yield f"note   below {FEW:,} images published weights serve better: ibot pretrain adapt"
    yield f"next   {command(found[0], given)}"


def why(option: Option) -> str:
    """What speaks for or against it."""
    if not option.fits:
        return "too large for the memory"
    if option.reach < ENOUGH:
        share = f"{option.reach:.0%}" if option.reach >= 0.01 else "below 1%"
        return f"sees {share} of the images that it should"
    if option.epochs == MOST_EPOCHS:
        return "as long as any published run"
    return "sees enough"


def _time(hours: float) -> str:
    """Rounded so little that nothing seems to take longer than it may."""
    return f"about {hours:.1f} hours" if 1.5 <= hours < 10 else in_words(hours)


def _epochs(option: Option) -> str:
    return f"{option.epochs:.0f}" if option.epochs >= 3 else f"{option.epochs:.2g}"


def command(option: Option, given: Sequence[str]) -> str:
    """What trains it."""
    config, forecast = option.forecast.config, option.forecast
    words = ["ibot", "pretrain", config.recipe or "RECIPE", *given]
    own = [f"model.width={config.model.width}", f"model.depth={config.model.depth}"]
    settings = [*own, f"model.heads={config.model.heads}"] if config.model.kind == "vit" else []
    settings.append(f"augment.num_local={config.augment.num_local}")
    if config.train.accumulate > 1:
        settings.append(f"train.accumulate={config.train.accumulate}")
    if option.epochs >= 3:
        length = ["--epochs", str(int(option.epochs))]
    else:
        length = [f"train.length={int(option.epochs * forecast.images)} images"]
    several = forecast.machine.devices
    processes = ["--processes", str(several)] if several > 1 and forecast.machine.nodes == 1 else []
    text = shlex.join([*words, *length, *processes, *settings])
    return text if forecast.machine.nodes == 1 else f"{text}   (on each machine: docs/cluster.md)"


def plain(found: Sequence[Option]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "network": option.name,
            "views": option.views,
            "num_local": option.forecast.config.augment.num_local,
            "width": option.forecast.config.model.width,
            "images_per_second": option.forecast.images_per_second,
            "epochs": option.epochs,
            "hours": option.hours,
            "reach": option.reach,
            "fits": option.fits,
            "waits_for_starts": option.forecast.waits_for_starts,
        }
        for option in found
    ]
