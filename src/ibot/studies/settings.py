"""The settings of a run: the recipe, what was asked for, and what data, device and weights give.

Heavy packages are imported where they are needed: a mistake in the settings is told at once.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.config.override import apply, later_at_default, to_plain, with_former_names
from ibot.config.reading import DataConfig
from ibot.config.resolve import check
from ibot.config.schema import Config, ModelConfig
from ibot.errors import ConfigError, UserError
from ibot.recipes import recipe
from ibot.studies.going_on import is_run, not_begun, resumed
from ibot.system.processes import launched_processes, said_once

if TYPE_CHECKING:
    from ibot.data.sets.images import Images

Say = Callable[[str], None]
"""Takes a line for the user."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of a run."""

    recipe: str | None
    """A name, a run's config.json, or auto: chosen from the data and the device; None: that of the
    run in the folder."""
    settings: tuple[str, ...] = ()
    """Assignments `section.key=value`, in order."""
    folder: Path | None = None
    """Of the run; None: named after the settings."""
    extend_to: str = ""
    """Length in all to which the run in the folder is made longer; empty: it stays as long."""
    accept_images: bool = False
    """Whether the run in the folder goes on though images of it are gone."""

    @property
    def keys(self) -> list[str]:
        """What is set."""
        return [text.partition("=")[0].strip() for text in self.settings]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can begin."""

    config: Config
    source: Images
    folder: Path
    notes: list[str]
    """What the number of images changed in the recipe, in words."""
    reasons: list[str]
    """Of the choices of auto."""
    goes_on: bool = False
    """Whether the run exists: `notes` say what became of it."""
    seen: dict[str, Any] | None = None
    """What a finished run noted of its images, where they are others by now."""


def prepare(asked: Asked, world_size: int = 1, say: Say = lambda text: None) -> Prepared:
    """Settings and images of a run in `world_size` processes; of one that exists its own.

    `say` gets the choices of auto, a line each. Raises UserError for a batch that the images do not
    fill or the processes cannot share, and for what a run that exists does not take.
    """
    if asked.folder is not None and is_run(asked.folder):
        return resumed(asked, asked.folder, world_size)
    if (error := not_begun(asked)) is not None:
        raise error
    reasons = []

    def keep(reason: str) -> None:
        reasons.append(reason)
        say(f"auto   {reason}")

    with said_once():
        config = configure(asked, keep)
    from ibot.data.channels.opening import with_mean
    from ibot.data.loader import check_batch
    from ibot.data.sets.windows import in_windows
    from ibot.recipes.fitting import for_few_images, for_fewer_than_a_batch
    from ibot.studies.channels import for_channels

    source = open_data(config.data)
    config, notes = for_channels(config, source, asked.keys, asked.folder)
    source = with_mean(source, config.model.mean)
    if asked.recipe == "adapt" and not began_with_batch(
        asked.folder, config, len(source), asked.keys
    ):
        config, few = for_few_images(config, len(source), world_size, asked.keys)
        notes = [*notes, *few]
    elif asked.recipe != "auto" and "train.batch" not in asked.keys and not in_windows(source):
        config, few = for_fewer_than_a_batch(config, len(source), world_size, asked.keys)
        notes = [*notes, *few]
    check_batch(config, source, world_size)
    folder = asked.folder or default_folder(config, asked.keys)
    if is_run(folder):
        return resumed(asked, folder, world_size)
    if asked.recipe is not None and is_run(Path(asked.recipe)):
        other = shlex.quote(asked.recipe)
        notes = [*notes, f"a new run; to go on with that one:  ibot pretrain --run {other}"]
    return Prepared(config, source, folder, notes, reasons)


def configure(asked: Asked, say: Say) -> Config:
    """The recipe with what was asked for, fitted to the weights it starts from.

    `say` gets the reasons of auto. Raises UserError for settings that contradict each other.
    """
    base, reasons = _base(asked)
    # Of a run's config.json: where one call was to stop is no part of the recipe, nor what became
    # of the run on its way.
    base = replace(base, train=replace(base.train, max_steps=0, lengths=(), lists=()))
    config = apply(base, asked.settings)
    if config.train.lengths or config.train.lists:
        raise ConfigError(
            "train.lengths and train.lists are written by a run itself",
            fix='to make one longer:  ibot pretrain --run DIR --extend-to "40 epochs"',
        )
    if asked.recipe == "adapt" and not config.train.init:
        raise UserError(
            "the recipe adapt goes on from weights",
            fix="name them:  --init ibot:vit_s16 (others: ibot weights list), hf:OWNER/NAME, or a "
            "run or file",
        )
    recipe_model = config.model
    if config.train.init:
        from ibot.engine.start import with_weights

        config = with_weights(config, asked.keys)
    if config.method.patch_target != "online":
        from ibot.engine.tokenizers import with_tokenizer

        config = with_tokenizer(config)
    if config.train.init:
        from ibot.engine.start import as_started

        folder = asked.folder or older_folder(config, recipe_model, asked.keys)
        config = as_started(config, folder, asked.keys)
    check(config)
    for reason in reasons:
        say(reason)
    return config


def _base(asked: Asked) -> tuple[Config, list[str]]:
    """The recipe, with the reasons for the choices of auto."""
    if asked.recipe == "auto":
        return chosen(asked)
    return recipe(asked.recipe or "", beside=["auto"]), []


def chosen(asked: Asked) -> tuple[Config, list[str]]:
    """Settings for the data and the device, with their reasons.

    A length and a batch that were asked for stay.
    """
    from ibot.data.survey import survey
    from ibot.recipes.auto import Facts, choose
    from ibot.system.device import choose_device, device_memory

    # First of all: what is misspelt is told before the images are looked at.
    given = apply(replace(recipe("tiny32"), recipe="auto"), asked.settings)
    source = open_data(given.data)
    memory = device_memory(choose_device(given.system.device))
    length = given.train.length if "train.length" in asked.keys else None
    batch = max(0, given.train.batch) if "train.batch" in asked.keys else 0
    return choose(
        Facts(
            survey(source),
            memory,
            launched_processes().world_size,
            length,
            batch,
            whole=not given.data.window,
            images_from=given.data,
            from_weights=bool(given.train.init),
        )
    )


def open_data(data: DataConfig) -> Images:
    """The images to train on."""
    from ibot.data.sets.open import open_images
    from ibot.data.sets.trimmed import trimmed

    orientation, most = data.exif_orientation, data.max_pixels
    images = open_images(
        data.path,
        exif_orientation=orientation,
        max_pixels=most,
        channels=data.reading,
        windows=data.windowing,
    )
    return trimmed(images, data.trim_border)


def began_with_batch(
    folder: Path | None, config: Config, images: int, keys: Iterable[str] = ()
) -> bool:
    """Whether the folder has a run with the recipe's own batch.

    Older versions took that for few images too.
    """
    from ibot.engine.run import read_config

    folder = folder or default_folder(config, keys)
    known = (folder / "config.json").is_file() and config.train.batch <= images
    return known and read_config(folder).train.batch == config.train.batch


def default_folder(config: Config, keys: Iterable[str] = ()) -> Path:
    """A folder named after the recipe and a hash of the settings, of which `keys` were set.

    So the same command resumes its own run. How its views are made is part of its name only where
    that was set: a run's config.json holds what the device made of auto.
    """
    if "data.pixels" not in keys:
        config = replace(config, data=replace(config.data, pixels="auto"))
    plain = with_former_names(to_plain(replace(config, train=replace(config.train, max_steps=0))))
    for section in ("system", "log", "checkpoint", "evaluate"):
        plain.pop(section)
    for key, name in later_at_default(config):
        plain.get(key, {}).pop(name, None)
    digest = hashlib.sha256(repr(plain).encode()).hexdigest()[:8]
    return Path("runs") / f"{config.recipe or 'run'}-{digest}"


def older_folder(config: Config, asked: ModelConfig, keys: Iterable[str]) -> Path:
    """Default folder of a run from weights by an older version.

    That left these settings of the network to the recipe.
    """
    left = {name: getattr(asked, name) for name in ("pos_interp", "act", "mean", "std")}
    return default_folder(replace(config, model=replace(config.model, **left)), keys)
