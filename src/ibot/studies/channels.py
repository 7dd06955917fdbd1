"""A run's network for the channels of its images, and the mean and deviation that it reads with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD, PICTURES, RGB
from ibot.config.resolve import check
from ibot.config.schema import Config, ModelConfig
from ibot.data.sets.images import Images
from ibot.data.sets.same_channels import far_apart, named
from ibot.engine.run import read_config
from ibot.errors import ConfigError
from ibot.words import counted


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
            far = far_apart(names, model.statistics, (mean, std))
            those = "mean and deviation are those of the weights"
            notes = [f"{those}; {far}: model.mean and model.std set others"] if far else []
            return _with(config, names, found), [*_told(names), *notes]
    return _with(config, names, found), [] if pictures else list(_told(names))


def _with(config: Config, names: tuple[str, ...], found: dict[str, tuple[float, ...]]) -> Config:
    for name, values in found.items():
        if len(values) != len(names):
            raise ConfigError(
                f"model.{name} has {counted(len(values), 'number')} for {named(names)}",
                fix="give one for each, or leave it out: it is measured then",
            )
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
