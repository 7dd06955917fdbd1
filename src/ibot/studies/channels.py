"""A run's network for the channels of its images, and the mean and deviation that it reads with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ibot.config.resolve import check
from ibot.config.schema import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PICTURES,
    RGB,
    Config,
    ModelConfig,
)
from ibot.data.sets.images import Images
from ibot.data.sets.same_channels import named
from ibot.engine.run import read_config
from ibot.errors import ConfigError

APART = 1.0, 2.0
"""Statistics are told to differ where means are further apart than so many deviations, or
deviations by more than this factor, in any channel."""


def for_channels(
    config: Config, images: Images, given: Iterable[str], folder: Path | None = None
) -> tuple[Config, list[str]]:
    """Settings whose network reads the channels of the images, and what a user should know of it.

    Mean and deviation are those that were given; else those of the run in `folder`, if it goes on
    there; else those of the weights to start from, where these read channels of the same names;
    else those of the data, which for colour pictures of 8 bits are taken to be ImageNet's.

    Raises ConfigError for `model.channels` of other images.
    """
    keys, names, model = set(given), tuple(images.channels), config.model
    pictures = config.data.reading == PICTURES
    if "model.channels" in keys and model.channels != names:
        raise ConfigError(
            f"model.channels names {named(model.channels)}",
            why=f"the images in '{images.root}' have {named(names)}",
            fix="leave it out, or choose channels of the images with data.channels",
        )
    if pictures and model.channels == names:
        return config, []
    own = {n: getattr(model, n) for n in ("mean", "std") if f"model.{n}" in keys}
    if len(own) == 2:
        found = own
    elif (started := _started(folder, names)) is not None:
        found = {"mean": started.mean, "std": started.std, **own}
    else:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if pictures else _measured(images)
        # Levels of red, green and blue of any files are not what weights for photographs have seen.
        kept = bool(config.train.init) and model.channels == names and names != RGB
        found = {"mean": model.mean, "std": model.std} if kept else {"mean": mean, "std": std}
        found |= own
        if kept and not pictures:
            notes = list(_differences(model, mean, std))
            return _with(config, names, found), [*_told(names), *notes]
    return _with(config, names, found), [] if pictures else list(_told(names))


def _with(config: Config, names: tuple[str, ...], found: dict[str, tuple[float, ...]]) -> Config:
    config = replace(config, model=replace(config.model, channels=names, **found))
    check(config)
    return config


def _measured(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from ibot.data.channels.statistics import statistics_of

    return statistics_of(images)


def _started(folder: Path | None, names: tuple[str, ...]) -> ModelConfig | None:
    """The network of the run that goes on in the folder."""
    if folder is None or not (folder / "config.json").is_file():
        return None
    model = read_config(folder).model
    return model if model.channels == names else None


def _told(names: tuple[str, ...]) -> Iterator[str]:
    yield (
        f"{named(names)}, read as levels: brightness, contrast and blur change each by itself; "
        "saturation, hue, gray and solarize are not done"
    )


def _differences(
    model: ModelConfig, mean: tuple[float, ...], std: tuple[float, ...]
) -> Iterator[str]:
    """What is said where weights were trained with other statistics than the data have."""
    rows = zip(model.channels, model.mean, model.std, mean, std, strict=True)
    apart = [
        f"{name} {m:.4g} ± {s:.4g}, here {own_m:.4g} ± {own_s:.4g}"
        for name, m, s, own_m, own_s in rows
        if abs(m - own_m) > APART[0] * min(s, own_s) or max(s / own_s, own_s / s) > APART[1]
    ]
    if apart:
        yield (
            f"mean and deviation are those of the weights; of {len(apart)} of {len(mean)} channels "
            f"the data's are far from them ({apart[0]}): model.mean and model.std set others"
        )
