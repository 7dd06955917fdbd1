"""Pictures of `ibot show augment`: the views that a training makes of an image, what is hidden in
them, and the word that each hidden patch is to become.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, zeros

from ibot.config.override import from_plain
from ibot.config.schema import Config
from ibot.data.false_colours import as_rgb
from ibot.engine.checkpoint import read_centers
from ibot.errors import UserError
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead
from ibot.show.asked import Asked
from ibot.show.canvas import GAP, HEAD, QUIET, SMALL, Sheet, fitted, text_width
from ibot.show.colours import PALETTE, distinct_color
from ibot.show.inputs import Viewed
from ibot.show.layout import (
    HIDDEN,
    LEAST_WIDE,
    Panel,
    file_name,
    masked_image,
    photo,
    rows,
    scaled,
)
from ibot.show.pictures import Drawn
from ibot.show.training_views import (
    Targets,
    TrainingViews,
    epochs_unmasked,
    targets_of,
    training_views,
)
from ibot.system.tables import write_table
from ibot.weights.files import locate
from ibot.weights.head import projection_head
from ibot.weights.read import load_weights
from ibot.words import counted

HEADER = ("view", "row", "column", "word", "probability")
"""Of the table of targets: a line for each hidden patch of the global views."""
LOCAL = 2 / 5
"""Height of local views beside that of global ones."""
LEAST_LETTER = 7
"""Pixels of a word's number in its patch, below which it is left out; the table has all."""


@dataclass(frozen=True, slots=True)
class Predicting:
    """What makes the targets."""

    backbone: Backbone
    head: ProjectionHead
    center: Tensor
    """[K']."""
    temp: float
    words: str
    """How probabilities are made, for people."""


def draw(asked: Asked) -> Drawn:
    """A page for each image, and a table of its targets where the weights have a head."""
    config = asked.config or config_of(asked)
    predicting = None if asked.config else _predicting(asked, config)
    epoch = asked.options["epoch"]
    epoch = math.ceil(epochs_unmasked(config)) if epoch is None else epoch
    inputs, files, count = asked.inputs(), [], 0
    progress = asked.counter("augment")
    for viewed in inputs:
        number = viewed.index
        if asked.options["number"] is not None:
            number = asked.options["number"] + count
        seen = training_views(config, viewed.pixels, number, epoch)
        targets = None
        if predicting:
            made = predicting.backbone, predicting.head, predicting.center, predicting.temp
            targets = targets_of(seen, *made)
        seen = replace(seen, image=as_rgb(seen.image), views=tuple(map(as_rgb, seen.views)))
        files += _written(asked, viewed, seen, targets, predicting)
        count += 1
        if progress:
            progress(count, len(inputs))
    views = f"{counted(config.augment.num_global, 'global view')} and {config.augment.num_local}"
    first = asked.options["number"]
    numbers = "their places among those named" if first is None else f"from {first} on"
    lines = (
        f"shown:            {counted(count, 'image')}, {views} local ones each",
        f"drawn by:         seed {config.train.seed}, epoch {epoch}, numbers of images: {numbers}",
        f"targets:          {predicting.words if predicting else _why_none(asked, config)}",
    )
    return Drawn(files, lines)


def config_of(asked: Asked) -> Config:
    """The settings with which weights were trained. Raises UserError for weights of others."""
    settings = load_weights(asked.weights, asked.key).settings
    if "augment" not in settings or "mask" not in settings:
        raise UserError(
            f"'{asked.weights}' does not say how views were made",
            why="weights of other projects, and exports, hold no such settings",
            fix="name a run of ibot, or a recipe: ibot recipes list",
        )
    return from_plain(settings, asked.weights)


def _predicting(asked: Asked, config: Config) -> Predicting | None:
    """The teacher with its head; None where targets come from elsewhere or nothing is hidden."""
    if unshown(config):
        return None
    backbone = asked.loaded().backbone
    head = projection_head(load_weights(asked.weights, asked.key), backbone.embed_dim, asked.key)
    if head is None:
        return None
    centers = read_centers(locate(Path(asked.weights), asked.key).parent)
    temp, center = config.method.patch_temp, zeros(config.head.patch_out_dim)
    if config.method.targets == "sinkhorn":
        words = f"logits / {temp:g}; training balances them over its batch besides"
    elif centers is None:
        words = f"logits / {temp:g}; training subtracts a center that is not in these weights"
    else:
        center, words = centers[1], f"(logits - center) / {temp:g}, the temperature when warm"
    return Predicting(backbone, head, center, temp, words)


def unshown(config: Config) -> str:
    """Why a teacher and its head do not say what hidden patches become; empty where they do."""
    method = config.method
    if method.patch_match != "hidden":
        return f"none, as nothing is hidden: method.patch_match={method.patch_match}"
    if config.mask.shape == "attention":
        return "none, as the teacher of each step says what is hidden: mask.shape=attention"
    if method.patch_target != "online":
        return f"not shown: they come from method.patch_target={method.patch_target}"
    if not method.patch_target_norm:
        return "not shown: they come from before the final norm: method.patch_target_norm=false"
    return ""


def _why_none(asked: Asked, config: Config) -> str:
    if why := unshown(config):
        return why
    return "none, as a recipe has no teacher" if asked.config else "none, as there is no head"


def _written(
    asked: Asked,
    viewed: Viewed,
    seen: TrainingViews,
    targets: Targets | None,
    predicting: Predicting | None,
) -> list[Path]:
    name = file_name(viewed.index, viewed.name, "_augment")
    sheet = page(
        seen,
        targets,
        title=Path(viewed.name).name,
        height=asked.options["height"],
        note=f"image {seen.number} of epoch {seen.epoch}"
        + (f"; probability of a word: softmax of {predicting.words}" if predicting else ""),
    )
    files = [sheet.save(asked.out / f"{name}.{asked.format}")]
    if targets:
        table = asked.out / f"{name}.csv"
        write_table(table, HEADER, _target_rows(seen, targets))
        files.append(table)
    return files


def page(
    seen: TrainingViews,
    targets: Targets | None = None,
    *,
    title: str = "image",
    height: int = 240,
    note: str = "",
) -> Sheet:
    """The image with the boxes of its views; the global views whole, with hidden patches, and with
    the words of these; the local views below the image.

    Args:
        seen: the views.
        targets: what hidden patches are to become; None: not known.
        title: above the image.
        height: pixels of the image and the global views.
        note: a line below all.
    """
    small = photo(seen.image, height, seen.image)
    upper = _upper(seen, targets, title, height, small)
    # Below the image where they fit: that column has nothing else.
    left, first = max(LEAST_WIDE, small.shape[1]) + GAP, height + HEAD + GAP // 2
    lower, top = _local(seen, height, left), first
    if lower and (first + lower.height > upper.height or lower.width > left + GAP):
        lower, top = _local(seen, height, upper.width), upper.height
    down = max(upper.height, top + lower.height if lower else 0)
    sheet = Sheet(max(upper.width, lower.width if lower else 0), down + (HEAD if note else 0))
    sheet.place(upper, 0, 0)
    if lower:
        sheet.place(lower, 0, top)
    words = fitted(note, sheet.width - 2 * GAP, SMALL)
    sheet.words(GAP, down, words, size=SMALL, color=QUIET)
    return sheet


def _upper(
    seen: TrainingViews,
    targets: Targets | None,
    title: str,
    height: int,
    small: NDArray[np.uint8],
) -> Sheet:
    """small: the image [h, w, 3] as it is drawn."""
    views = seen.views[: seen.num_global]
    lines: list[list[Panel | None]] = [[Panel(title, small)], [None], [None]]
    for i, view in enumerate(views):
        hidden = seen.hidden[i]
        share = f"{100 * hidden.mean():.0f} % hidden" if hidden.any() else "nothing hidden"
        after = seen.done(i)
        words = f"global view {i}" + (f": {after}" if after else "")
        lines[0].append(Panel(words, view, PALETTE[i]))
        lines[1].append(Panel(f"student: {share}", masked_image(view, hidden)))
        lines[2].append(Panel("words to predict", _words_of(view, hidden, targets, i)))
    sheet = rows(lines if targets else lines[:2], height)
    _draw_boxes(sheet, seen, (GAP, GAP // 2 + HEAD), small.shape)
    if targets:
        left = 2 * GAP + max(LEAST_WIDE, small.shape[1])
        for i, view in enumerate(views):
            across, _ = scaled(view.shape, height)
            corner = left, 2 * (height + HEAD + GAP // 2) + GAP // 2 + HEAD
            _write_words(sheet, seen.hidden[i], targets.word[i], corner, (across, height))
            left += across + GAP
    return sheet


def _words_of(
    view: NDArray[np.uint8], hidden: NDArray[np.bool_], targets: Targets | None, number: int
) -> NDArray[np.uint8]:
    """A view, pale, with hidden patches in the colours of their words, fainter the less sure."""
    pale = (128 + view / 2).astype(np.uint8)
    if targets is None:
        return pale
    colors = np.array(
        [[distinct_color(int(word)) for word in line] for line in targets.word[number]]
    )
    sure = targets.share[number][..., None]
    cells = np.rint(sure * colors + (1 - sure) * HIDDEN).astype(np.uint8)
    size = view.shape[0] // hidden.shape[0], view.shape[1] // hidden.shape[1]
    large = cells.repeat(size[0], 0).repeat(size[1], 1)
    where = hidden.repeat(size[0], 0).repeat(size[1], 1)[..., None]
    return np.where(where, large, pale[: where.shape[0], : where.shape[1]])


def _write_words(
    sheet: Sheet,
    hidden: NDArray[np.bool_],
    words: NDArray[np.int64],
    corner: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """The number of each word in its patch, as large as the longest fits."""
    high, wide = size[1] / hidden.shape[0], size[0] / hidden.shape[1]
    longest = max((text_width(str(word), 10) for word in words[hidden].tolist()), default=1.0)
    letter = int(min(13, 0.8 * high, 10 * (wide - 2) / longest))
    if letter < LEAST_LETTER:
        return
    for row, column in zip(*np.nonzero(hidden), strict=True):
        x, y = corner[0] + (column + 0.5) * wide, corner[1] + (row + 0.5) * high - 0.62 * letter
        sheet.words(x, y, str(words[row, column]), size=letter, align="middle")


def _draw_boxes(
    sheet: Sheet, seen: TrainingViews, corner: tuple[int, int], shape: Sequence[int]
) -> None:
    """What was cut out of the image: global views thick, local ones thin, above a white line."""
    across, down = shape[1] / seen.image.shape[1], shape[0] / seen.image.shape[0]
    for view in reversed(range(len(seen.views))):
        top, left, height, width = seen.box(view)
        place = corner[0] + left * across, corner[1] + top * down, width * across, height * down
        thick = 3 if view < seen.num_global else 2
        sheet.box(*place, line=PALETTE[view % len(PALETTE)], thick=thick)


def _local(seen: TrainingViews, height: int, across: int) -> Sheet | None:
    """The local views as the student sees them, in lines of `across` pixels; None where there are
    none.
    """
    views = seen.views[seen.num_global :]
    if not views:
        return None
    panels = []
    for i, view in enumerate(views, seen.num_global):
        hidden = seen.hidden_in(i)
        shown = view if hidden is None else masked_image(view, hidden)
        panels.append(Panel(f"local {i - seen.num_global}", shown, PALETTE[i % len(PALETTE)]))
    high = max(32, round(LOCAL * height))
    wide = max(LEAST_WIDE, max(scaled(view.shape, high)[0] for view in views))
    in_line = max(1, (across - GAP) // (wide + GAP))
    in_line = math.ceil(len(panels) / math.ceil(len(panels) / in_line))  # lines alike
    lines = [panels[start : start + in_line] for start in range(0, len(panels), in_line)]
    return rows(lines, high)


def _target_rows(seen: TrainingViews, targets: Targets) -> Iterator[tuple[object, ...]]:
    """A row for each hidden patch of the global views, as `HEADER` says."""
    for place in zip(*np.nonzero(seen.hidden), strict=True):
        yield *place, targets.word[place], f"{targets.share[place]:.6f}"
