"""A run that exists goes on with its own settings; what is asked of it otherwise is taken, kept or
refused, and said.

Free to change are speed, records and where the images lie. It can be made longer. Images that were
added are taken in, those that are gone when the user says so; both from the next epoch on. What
`auto` would choose otherwise by now is told, and stays as it was. All else is another run.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.config.duration import Duration
from ibot.config.history import WRITTEN, begun, extended, rewound, steps_in_all, with_images
from ibot.config.override import apply, diff
from ibot.config.resolve import check, check_shares, derive
from ibot.config.schema import Config
from ibot.errors import ConfigError, DataError, RunError, UserError
from ibot.recipes import RECIPES, recipe
from ibot.studies.chosen_today import otherwise, set_at_first
from ibot.system.processes import said_once
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.data.sets.images import Images
    from ibot.engine.image_list import Changed
    from ibot.studies.settings import Asked, Prepared

Rows = list[tuple[str, Any, Any]]
"""Keys of settings that differ, with both values."""


def is_run(folder: Path | None) -> bool:
    """Whether a run was begun in the folder."""
    return folder is not None and (folder / "config.json").is_file()


def not_begun(asked: Asked) -> UserError | None:
    """The error for what can be asked of a run that exists alone; None where nothing is."""
    folder = asked.folder
    begin = "ibot pretrain auto --data DIR" + (f" --run {_word(folder)}" if folder else "")
    if asked.recipe is None and folder is None:
        return UserError(
            "the following arguments are required: RECIPE, or --run with a run that exists",
            fix=f"begin one with  {begin}   or go on with  ibot pretrain --run DIR",
        )
    if asked.recipe is None or asked.extend_to or asked.accept_images:
        return UserError(
            f"there is no run in '{folder}' yet" if folder else "which run is to go on?",
            why="only a run that exists goes on without a recipe, or is made longer",
            fix=f"begin it with  {begin}" if folder else "name it with --run DIR",
        )
    return None


def resumed(asked: Asked, folder: Path, world_size: int = 1) -> Prepared:
    """Settings and images with which the run in the folder goes on.

    Raises RunError for settings that it does not have, and for images that are gone.
    """
    own, config, recorded = _stored(asked, folder)
    with said_once():
        source = _open(config, asked, folder)
    from ibot.engine.checkpoint import reached_step
    from ibot.engine.image_list import changed, refusal
    from ibot.studies.settings import Prepared
    from ibot.system.watch import from_main

    reached = from_main("step of the run", reached_step(folder))
    before = int(recorded["images"]) if recorded.get("names_sha256") else len(source)
    config, notes = rewound(config, reached), []
    change = changed(folder, recorded, source)
    if change is not None:
        if not change.only_added and not (asked.accept_images and not change.none_left):
            raise refusal(folder, change, config.data.path if "data.path" in asked.keys else "")
        config = with_images(config, before, reached, len(source))
    if asked.extend_to:
        config, notes = _longer(config, asked.extend_to, folder, before=before, reached=reached)
    done = reached >= derive(config, len(source), world_size).total_steps
    if change is not None:
        notes = [_told_images(change, reached, done, folder), *notes]
    _check_batch(config, source, world_size)
    if asked.recipe == "auto" or (asked.recipe is None and own.recipe == "auto" and change):
        notes = [*notes, *otherwise(config, source, {*asked.keys, *set_at_first(folder)})]
    if done:  # what it was trained on stays noted
        kept = {"lengths": own.train.lengths, "lists": own.train.lists}
        config = replace(config, train=replace(config.train, **kept))
    return Prepared(
        config,
        source,
        folder,
        notes,
        [],
        goes_on=True,
        seen=recorded if done and change is not None else None,
    )


def reckoned(asked: Asked, folder: Path) -> tuple[Config, int, list[str]]:
    """Settings of the run in the folder, the number of its images and notes, where those images
    need not be here.

    Raises RunError for settings that it does not have.
    """
    from ibot.engine.checkpoint import reached_step

    _, config, recorded = _stored(asked, folder)
    images, notes, reached = int(recorded.get("images") or 0), [], reached_step(folder)
    config = rewound(config, reached)
    if asked.extend_to:
        config, notes = _longer(config, asked.extend_to, folder, before=images, reached=reached)
    if reached:
        notes = [*notes, f"the run stands at step {reached:,}; reckoned is all of it"]
    return config, images, notes


def _stored(asked: Asked, folder: Path) -> tuple[Config, Config, dict[str, Any]]:
    """The run's own settings, the same with those that were given, and what it notes of its images.

    Raises RunError for settings that it does not have.
    """
    from ibot.engine.run import read_config

    stored = read_config(folder)
    own = replace(stored, train=replace(stored.train, max_steps=0))
    recorded = _recorded(folder)
    config = _with_given(own, asked, folder, int(recorded.get("images") or 0))
    check(config)
    return own, config, recorded


def _with_given(own: Config, asked: Asked, folder: Path, images: int) -> Config:
    """The settings of the run with those that were given and are free to change.

    Raises RunError for others.
    """
    from ibot.engine.run import FREE_TO_CHANGE

    # How the device makes views was settled when the run began.
    given = [text for text in asked.settings if "".join(text.split()) != "data.pixels=auto"]
    config = apply(own, given)
    rows = [*_other_recipe(own, asked.recipe), *diff(own, config)]
    if config.train.length != own.train.length and images:
        train = begun(own.train, images)
        first = train.lists[0][2] // train.batch
        steps = config.train.length.steps(batch=train.batch, steps_per_epoch=first, total_steps=0)
        if steps in [total for _, total in train.lengths]:  # as it was before it was made longer
            config = replace(config, train=replace(config.train, length=own.train.length))
            rows = [row for row in rows if row[0] != "train.length"]
    rows = [row for row in rows if not row[0].startswith(FREE_TO_CHANGE)]
    if rows:
        raise _refused(folder, rows, own)
    return config


def _other_recipe(own: Config, name: str | None) -> Rows:
    """Where the run is not of the recipe that was named."""
    from ibot.engine.run import FREE_TO_CHANGE

    if name is None:
        return []
    if name == "auto" or name in RECIPES:
        return [("recipe", own.recipe, name)] if own.recipe not in ("", name) else []
    other = recipe(name, beside=["auto"])
    kept = (*FREE_TO_CHANGE, *WRITTEN)
    rows = [row for row in diff(own, other) if not row[0].startswith(kept)]
    same_length = other.train.lengths or other.train.length == own.train.length
    if not same_length and not own.train.lengths:
        rows.append(("train.length", own.train.length, other.train.length))
    return rows


def _refused(folder: Path, rows: Rows, own: Config) -> RunError:
    from ibot.engine.run import told_changes

    run = _word(folder)
    ways = [
        f"to go on with the run as it is:  ibot pretrain --run {run}",
        "to train with these settings:  the same command with a new --run",
        f"the same, from the weights of this run:  add --init {run} to that",
    ]
    if [key for key, _, _ in rows] == ["train.length"]:
        longer = rows[0][2] if rows[0][2].value > rows[0][1].value else _twice(own.train.length)
        ways.insert(0, f'to make it longer:  ibot pretrain --run {run} --extend-to "{longer}"')
    return RunError(
        f"'{folder}' belongs to a run with other settings",
        why=told_changes(rows),
        fix="\n        ".join(ways),
    )


def _recorded(folder: Path) -> dict[str, Any]:
    """What the run notes of the images that it was trained on last. Raises RunError."""
    try:
        return json.loads((folder / "provenance.json").read_text()).get("data", {})
    except (OSError, ValueError) as error:
        raise RunError(f"'{folder}' holds no readable provenance.json", why=str(error)) from None


def _open(config: Config, asked: Asked, folder: Path) -> Images:
    """The images of the run, where they are now. Raises DataError."""
    from ibot.data.channels.opening import with_mean
    from ibot.studies.settings import open_data

    where = f"ibot pretrain --run {_word(folder)} --data DIR"
    if not config.data.path:
        raise DataError(f"the run in '{folder}' does not say where its images lie", fix=where)
    try:
        source = open_data(config.data)
    except DataError as error:
        if "data.path" in asked.keys or Path(config.data.path).exists():
            raise
        raise DataError(
            error.what, why="the run was started on these images", fix=f"if they moved:  {where}"
        ) from None
    return with_mean(source, config.model.mean)


def _check_batch(config: Config, source: Images, world_size: int) -> None:
    """Raise DataError or ConfigError, with a remedy that leaves the run its batch."""
    from ibot.data.loader import check_batch

    batch = config.train.batch
    check_shares(config.train, world_size, begun=True)
    try:
        check_batch(config, source, world_size)
    except DataError as error:
        fix = f"the run keeps its batch: it needs {batch} images at least, or a new --run"
        raise DataError(error.what, why=error.why, fix=fix) from None


def _longer(
    config: Config, text: str, folder: Path, *, before: int, reached: int
) -> tuple[Config, list[str]]:
    """The run with a length in all, and what follows; nothing where that is its length already."""
    from ibot.engine.schedule import rewarmed_at

    known, own = begun(config.train, before), config.train.length
    now = known.lengths[-1][1]
    try:
        length = Duration.parse(text)
        total = steps_in_all(config.train, before, length)
    except ValueError:
        raise ConfigError(
            f"--extend-to '{text}' is no length of a run",
            fix="write for example '40 epochs', '4000 steps' or '1e6 images'",
        ) from None
    if total < now:
        raise UserError(
            f"the run in '{folder}' is longer than {length} already",
            why=f"its length is {_in_steps(own, now)}, of which {reached} steps are done; "
            f"--extend-to names the length in all, here {_in_steps(length, total)}",
            fix=f'for example  ibot pretrain --run {_word(folder)} --extend-to "{_twice(own)}"',
        )
    if total == now:
        return config, []
    notes = [f"longer: {_in_steps(length, total)} in all, in place of {_in_steps(own, now)}"]
    if reached:
        joins = rewarmed_at(reached, total)
        notes.append(
            "learning rate, weight decay and momentum move to the schedules of that length by step "
            f"{joins}; warm-ups and temperatures stay as they were"
        )
    return extended(config, before, reached, length), notes


def _told_images(change: Changed, reached: int, done: bool, folder: Path) -> str:
    told = f"the images changed: {change}"
    if done:
        return (
            f"{told}. The run is at its end; to train on them:  ibot pretrain --run "
            f'{_word(folder)} --extend-to "N epochs"'
        )
    return f"{told}. From step {reached} on a new epoch begins, of the images as they are now"


def _in_steps(length: Duration, steps: int) -> str:
    return str(length) if length.unit == "steps" else f"{length} = {counted(steps, 'step')}"


def _twice(length: Duration) -> Duration:
    return Duration(2 * length.value, length.unit)


def _word(folder: Path | None) -> str:
    return shlex.quote(str(folder))
