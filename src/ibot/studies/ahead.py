"""The settings of a run that is planned for a machine: as asked, or chosen for the device there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ibot.config.override import apply
from ibot.config.resolve import check
from ibot.config.schema import Config
from ibot.errors import UserError
from ibot.recipes import recipe
from ibot.recipes.fitting import for_few_images, for_fewer_than_a_batch
from ibot.studies.forecast import Machine
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
    precision = machine.device.precision(config.train.precision)
    if not machine.device.peak(precision):
        raise UserError(
            f"{machine.device.name} has no fast products in {precision}",
            fix="train.precision=auto takes what it has",
        )
    whole = config.train.accumulate * machine.count
    if config.train.batch % whole:
        parts = f"{machine.count} devices x {config.train.accumulate} micro-batches"
        raise UserError(
            f"train.batch={config.train.batch} cannot be shared equally by {parts}",
            fix=f"train.batch={max(1, round(config.train.batch / whole)) * whole}",
        )
    return Planned(config, count)


def refuse_incomplete(asked: Asked, images: int) -> None:
    """Raise UserError where neither a number nor a folder of images is given, or no recipe."""
    if not images and not _given(asked).data.path:
        raise UserError(
            "how many images?",
            why="hours and epochs follow from it",
            fix="--images N reckons without any, --data DIR counts them",
        )
    if asked.recipe is None:
        raise UserError("name a recipe", fix="ibot recipes list; or auto, chosen for the device")


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
