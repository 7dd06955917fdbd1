"""`ibot show compose`: an image by its most attended words (spec_evaluation 10.5, Fig. 15)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.errors import DataError
from ibot.eval.probes.correspondence import salience
from ibot.models.contract import Backbone
from ibot.rng import permutation
from ibot.show.asked import Asked
from ibot.show.canvas import GAP, INK, LETTER, PAPER, QUIET, Sheet, fitted
from ibot.show.inputs import network_input
from ibot.show.layout import LINE, wrapped, write_lines
from ibot.show.match_pairs import rank_color
from ibot.show.patterns_drawn import CELL, SMALL, height_of, indexed, mosaic
from ibot.show.patterns_found import Pattern, Patterns
from ibot.show.pictures import SHEET, Drawn
from ibot.system.tables import write_table
from ibot.words import counted

WORDS = 4
"""Patches of an image that are shown with their words, as published."""
HEADER = ("image", "order", "row", "column", "word", "saliency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """An image, and the patches that stand for it."""

    name: str
    view: NDArray[np.uint8]
    """uint8 [h, w, 3], `Patterns.times` as large as the network's."""
    patches: NDArray[np.int64]
    """int64 [m], m at most 4: the most salient patches whose words differ, in that order."""
    words: NDArray[np.int64]
    """int64 [m]."""
    saliency: NDArray[np.float32]
    """float32 [m]."""


def draw(asked: Asked) -> Drawn:
    """One sheet: each image with its numbered patches, and beside it what their words stand for.

    Options: `top_k`, `window`, `centre`, `index`; see `show.pictures`. Raises as
    `show.patterns_drawn.draw`.
    """
    asked = replace(asked, options={**asked.options, "type": "patch"})
    with indexed(asked) as (backbone, patterns):
        found: list[Composed] = []
        salient_by = ""
        progress = asked.counter("images")
        rows = rows_of(patterns, asked.limit, asked.seed)
        for done, row in enumerate(rows, 1):
            one, salient_by = composed(backbone, patterns, row)
            found += [one] if one else []
            if progress is not None:
                progress(done, len(rows))
        if not found:
            raise DataError(f"none of the images of '{patterns.images.root}' can be read")
        words = {int(word) for one in found for word in one.words}
        made = {word: patterns.pattern(word) for word in sorted(words)}
        notes = [*filter(None, [asked.note]), note_of(patterns, salient_by)]
        sheet = composed_sheet(found, made, patterns, notes)
        file = sheet.save(asked.out / f"{SHEET}.{asked.format}")
        table = asked.out / "words.csv"
        write_table(table, HEADER, _lines(found, patterns))
    said = f"{counted(len(found), 'image')}, {counted(len(made), 'word')}"
    return Drawn([file], (f"{'composed:':18}{said}", f"{'table:':18}{table}"))


def rows_of(patterns: Patterns, limit: int, seed: int) -> list[int]:
    """Rows of the index that are drawn: `limit` by `seed`, in order; 0: all."""
    order = permutation(seed, 0, len(patterns.index.index))[: limit or None]
    return np.sort(order).tolist()


def distinct(
    saliency: NDArray[np.floating], words: NDArray[np.integer], count: int = WORDS
) -> NDArray[np.int64]:
    """The most salient patches of an image whose words differ: int64 [at most `count`].

    saliency, words: [N]. A word stands for its most salient patch; of equal ones the first.
    """
    order = np.argsort(-saliency, kind="stable")
    _, first = np.unique(words[order], return_index=True)
    return order[np.sort(first)][:count]


def composed(backbone: Backbone, patterns: Patterns, row: int) -> tuple[Composed | None, str]:
    """What stands for the image of a row, and by what it is salient; None if it cannot be read."""
    index, images = patterns.index, patterns.images
    number = int(index.index[row])
    try:
        seen = index.view.render(images.read(number))
        view = patterns.view(row)
    except UnreadableImage:
        return None, ""
    values, salient_by = salience(backbone, network_input(seen, backbone))
    saliency, words = values[0].float().cpu().numpy(), np.asarray(index.words[row], np.int64)
    patches = distinct(saliency, words)
    one = Composed(
        name=images.name(number),
        view=view,
        patches=patches,
        words=words[patches],
        saliency=saliency[patches],
    )
    return one, salient_by


def composed_sheet(
    found: Sequence[Composed],
    made: dict[int, Pattern],
    patterns: Patterns,
    notes: Sequence[str],
) -> Sheet:
    """A row for each image."""
    width = GAP + (1 + WORDS) * (CELL + GAP)
    lines = wrapped(notes, width - 2 * GAP)
    top = 2 * GAP + LINE * len(lines)
    heights = [height_of(one.view, CELL) for one in found]
    words = 2 * (SMALL + 4) + GAP
    down = [max(height, CELL) + words + GAP for height in heights]
    sheet = Sheet(width, top + sum(down))
    write_lines(sheet, lines, GAP)
    for i, one in enumerate(found):
        y = top + sum(down[:i])
        sheet.picture(GAP, y, one.view, (CELL, heights[i]), smooth=True)
        name = fitted(Path(one.name).name, CELL, SMALL)
        sheet.words(GAP, y + down[i] - words - GAP + 3, name, size=SMALL, color=QUIET)
        _number(sheet, one, y, CELL / one.view.shape[1], patterns)
        for order, word in enumerate(one.words.tolist()):
            x = GAP + (1 + order) * (CELL + GAP)
            _word(sheet, x, y, made[word], order, patterns.top_k)
        if (count := len(one.words)) < WORDS:
            x, why = GAP + (1 + count) * (CELL + GAP), f"all patches carry {counted(count, 'word')}"
            sheet.words(x, y, fitted(why, CELL, SMALL), size=SMALL, color=QUIET)
    return sheet


def _number(sheet: Sheet, one: Composed, top: int, scale: float, patterns: Patterns) -> None:
    """Frames around the patches, each with its order number."""
    side = patterns.patch * patterns.times * scale
    for order, patch in reversed(list(enumerate(one.patches.tolist()))):
        row, column = divmod(patch, patterns.index.grid[1])
        x, y, color = GAP + column * side, top + row * side, rank_color(order, WORDS)
        sheet.box(x - 1, y - 1, side + 2, side + 2, line=INK, thick=4)
        sheet.box(x, y, side, side, line=color, thick=2)
        sheet.box(x, y, LETTER, LETTER + 3, fill=INK)
        sheet.words(x + 3, y, str(order), color=PAPER)


def _word(sheet: Sheet, x: int, y: int, pattern: Pattern, order: int, top_k: int) -> None:
    """What a word stands for, below its number."""
    below = y + CELL + 3
    if pattern.windows:
        pixels = mosaic(pattern, top_k)
        height = height_of(pixels, CELL)
        sheet.picture(x, y, pixels, (CELL, height), smooth=True)
        below = y + height + 3
    use = f"{counted(pattern.uses, 'patch')} in {counted(pattern.images, 'image')}"
    text = f"{order}: word {pattern.word}, {use}"
    sheet.box(x, below, SMALL, SMALL, fill=rank_color(order, WORDS))
    sheet.words(
        x + SMALL + 4, below - 1, fitted(text, CELL - SMALL - 4, SMALL), size=SMALL, color=QUIET
    )


def note_of(patterns: Patterns, salient_by: str) -> str:
    """What stands above all images."""
    return (
        f"{patterns.index.name}: the {WORDS} patches of different words with the highest "
        f"{salient_by}, and what their words stand for among {len(patterns.index.index)} images of "
        f"{patterns.images.root.name}"
    )


def _lines(found: Sequence[Composed], patterns: Patterns) -> Iterator[tuple[object, ...]]:
    """Of the table."""
    for one in found:
        for order, patch in enumerate(one.patches.tolist()):
            row, column = divmod(patch, patterns.index.grid[1])
            yield one.name, order, row, column, one.words[order], f"{one.saliency[order]:.6f}"
