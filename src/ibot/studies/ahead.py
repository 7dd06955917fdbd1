"""The settings of a run that is planned for a machine: as asked, or chosen for the device there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ibot.config.override import apply
from ibot.config.resolve import check, check_shares
from ibot.config.schema import Config
from ibot.errors import UserError
from ibot.recipes import recipe
from ibot.recipes.fitting import for_few_images, for_fewer_than_a_batch
from ibot.studies.forecast import Machine
from ibot.studies.going_on import is_run, reckoned
from ibot.studies.settings import Asked, configure, open_data

SIDE = 500
"""Pixels of the shorter side of images that nobody has seen: photographs."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be reckoned."""

    config: Config
    images: int


def planned(asked: Asked, machine: Machine, images: int, say: Callable[[str], None]) -> Planned:
    """Settings for that machine; `say` gets the choices of auto, a line each.

    images: of the data set; 0: those of `data.path` are counted. Raises UserError for what
    `refuse_incomplete` refuses, and for settings that do not work together.
    """
    refuse_incomplete(asked, images)
    if machine.devices > 1 and not machine.device.gpu:
        raise UserError(
            f"{machine.devices} processes of one CPU share its cores",
            why="by formula a step takes all of them, in however many processes",
            fix="--nodes N for N such machines; with --data, --processes N tries one of N",
        )
    given = _given(asked)
    source = open_data(given.data) if given.data.path else None
    if _exists(asked):
        return _of_run(asked, machine, images or (len(source) if source else 0), say)
    count = images or len(source)  # pyright: ignore[reportArgumentType]
    if asked.recipe == "auto":
        config = apply(_chosen(asked, given, machine, count, say), asked.settings)
        check(config)
    else:
        config = configure(asked, say)
        fitted = for_few_images if asked.recipe == "adapt" else for_fewer_than_a_batch
        config, notes = fitted(config, count, machine.count, asked.keys)
        for note in notes:
            say(f"note   {note}")
    _check_precision(config, machine)
    whole = config.train.accumulate * machine.count
    if config.train.batch % whole:
        parts = f"{machine.count} devices x {config.train.accumulate} micro-batches"
        raise UserError(
            f"train.batch={config.train.batch} cannot be shared equally by {parts}",
            fix=f"train.batch={max(1, round(config.train.batch / whole)) * whole}",
        )
    return Planned(config, count)


def _exists(asked: Asked) -> bool:
    """Whether it is asked of a run that was begun: that has settings of its own."""
    return asked.folder is not None and is_run(asked.folder)


def _of_run(asked: Asked, machine: Machine, images: int, say: Callable[[str], None]) -> Planned:
    """The settings of a run that exists; `images`: other than its own, or 0."""
    assert asked.folder is not None
    config, own, notes = reckoned(asked, asked.folder)
    if images not in (0, own):
        notes = [*notes, f"as if the run were begun with {images:,} images; it has {own:,}"]
        config = replace(config, train=replace(config.train, lengths=(), lists=()))
    for note in notes:
        say(f"note   {note}")
    _check_precision(config, machine)
    check_shares(config.train, machine.count, begun=True)
    return Planned(config, images or own)


def _check_precision(config: Config, machine: Machine) -> None:
    """Raise UserError for products that the device does not have."""
    precision = machine.device.precision(config.train.precision)
    if not machine.device.peak(precision):
        raise UserError(
            f"{machine.device.name} has no fast products in {precision}",
            fix="train.precision=auto takes what it has",
        )


def refuse_incomplete(asked: Asked, images: int) -> None:
    """Raise UserError where neither a number nor a folder of images is given, or no recipe.

    A run that exists has all of them.
    """
    if _exists(asked):
        return
    if not images and not _given(asked).data.path:
        raise UserError(
            "how many images?",
            why="hours and epochs follow from it",
            fix="--images N reckons without any, --data DIR counts them",
        )
    if asked.recipe is None:
        raise UserError(
            "name a recipe",
            why=f"there is no run in '{asked.folder}' yet" if asked.folder else "",
            fix="ibot recipes list; or auto, chosen for the device",
        )


def _given(asked: Asked) -> Config:
    """What was set, where a recipe does not matter yet."""
    return apply(replace(recipe("tiny32"), recipe="auto"), asked.settings)


def _chosen(
    asked: Asked, given: Config, machine: Machine, images: int, say: Callable[[str], None]
) -> Config:
    from ibot.data.survey import Survey, survey
    from ibot.recipes.auto import Facts, choose

    if given.data.path:
        seen = replace(survey(open_data(given.data)), images=images)
    else:
        say(f"auto   nobody has seen the images: reckoned as photographs of {SIDE} pixels")
        seen = Survey(
            images=images,
            side=SIDE,
            smallest=SIDE,
            gray=0.0,
            variety=SIDE,
            repeated=0.0,
            unreadable=0.0,
            looked_at=0,
            bordered=0.0,
            upside_down=SIDE,
            lying=SIDE,
        )
    facts = Facts(
        seen,
        machine.device.memory if machine.device.gpu else 0.0,
        machine.count,
        given.train.length if "train.length" in asked.keys else None,
        max(0, given.train.batch) if "train.batch" in asked.keys else 0,
        whole=not given.data.window,
        images_from=given.data,
        from_weights=bool(given.train.init),
    )
    config, reasons = choose(facts)
    for reason in reasons:
        say(f"auto   {reason}")
    return config
