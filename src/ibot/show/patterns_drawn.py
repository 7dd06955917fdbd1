"""`ibot show patterns`: what the words of the tokenizer stand for (spec_evaluation 10.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.errors import UserError
from ibot.eval.context import ImagesContext
from ibot.eval.opened import opened
from ibot.eval.request import Request
from ibot.models.contract import Backbone
from ibot.show.asked import Asked
from ibot.show.canvas import GAP, QUIET, Sheet, fitted
from ibot.show.layout import LINE, wrapped, write_lines
from ibot.show.patterns import columns_for, layout
from ibot.show.patterns_found import Pattern, Patterns
from ibot.show.pictures import SHEET, Drawn
from ibot.system.tables import write_table
from ibot.vocabulary.folder import default_folder
from ibot.vocabulary.index import build
from ibot.vocabulary.remedy import Remedy
from ibot.words import counted

CELL, WINDOW, SMALL = 300, 50, 11
"""Pixels across a word on the sheet of all, and across each of its windows, at least; and of the
letters below it."""
BETWEEN = 2
"""Pixels between windows."""
HEADER = ("rank", "word", "image", "row", "column", "score")


def draw(asked: Asked) -> Drawn:
    """A picture for each word, all on one sheet, and a table of the patches in them.

    Options: `type`, `top_k`, `show`, `rank_by`, `min_images`, `window`, `word`, `centre`, `index`;
    see `show.pictures`. The index of the words is made where it is not there.

    Raises:
        UserError: images, words or options that cannot be. WeightsError: weights without a head.
        DataError: images that are missing or cannot be read.
    """
    options = asked.options
    with indexed(asked) as (_, patterns):
        ranking = patterns.ranking(options["rank_by"], options["min_images"])
        ranks = _ranks(asked, patterns, ranking)
        found: list[Pattern] = []
        files: list[Path] = []
        progress = asked.counter("words")
        for done, pattern in enumerate(patterns.of(ranking.tolist(), ranks), 1):
            found.append(pattern)
            if pattern.windows:
                name = f"{file_stem(pattern, patterns)}.{asked.format}"
                files.append(one_sheet(pattern, patterns).save(asked.out / name))
            if progress is not None:
                progress(done, len(ranks))
        sheet = all_sheet(found, patterns, note_of(asked, patterns, len(ranking)))
        files.insert(0, sheet.save(asked.out / f"{SHEET}.{asked.format}"))
        table = asked.out / "patterns.csv"
        write_table(table, HEADER, _rows(found))
    least = options["min_images"]
    enough = f" in {least} images or more" if least else ""
    shown = f"{len(found)} of {counted(len(ranking), 'word')}{enough}, by {options['rank_by']}"
    return Drawn(files, (f"{'words:':18}{shown}", f"{'table:':18}{table}"))


@contextmanager
def indexed(asked: Asked) -> Iterator[tuple[Backbone, Patterns]]:
    """The network, and the words of the images that are named from their index, which is made where
    it is lacking.

    Raises UserError for several sets, and as `vocabulary.index.build`.
    """
    if len(asked.images) != 1:
        raise UserError(
            f"{counted(len(asked.images), 'set')} of images are named, an index has one",
            fix="name one folder, list or set: ibot show patterns RUN --data DIR",
        )
    options = asked.options
    if options["window"] % 2 == 0:
        raise UserError(
            f"--window {options['window']} has no patch in its middle", fix="name an odd number"
        )
    request = Request(
        weights=asked.weights,
        key=asked.key,
        data=asked.images[0],
        heads=asked.heads,
        allow_partial=asked.allow_partial,
        size=asked.size,
        exif_orientation=asked.exif_orientation,
        max_pixels=asked.max_pixels,
        device=asked.device,
        out=str(asked.out),
    )
    folder = Path(options["index"]) if options["index"] else default_folder(Path(asked.weights))
    remedy = Remedy(request, options["index"], "--index")
    with opened(ImagesContext, request, quiet=asked.quiet) as context:
        backbone = context.loaded.backbone
        patterns = Patterns(
            index=build(context, folder, remedy=remedy),
            images=context.images,
            patch=backbone.patch_size,
            kind=options["type"],
            top_k=options["top_k"],
            side=options["window"],
            centre=options["centre"],
        )
        yield backbone, patterns


def _ranks(asked: Asked, patterns: Patterns, ranking: NDArray[np.int64]) -> list[int]:
    """Places in the ranking of what is drawn. Raises UserError for words that cannot be."""
    wanted = asked.options["word"]
    if not wanted:
        if not len(ranking):
            least = asked.options["min_images"]
            raise UserError(f"no word is in {least or 1} images or more", fix="lower --min-images")
        return list(range(min(asked.options["show"], len(ranking))))
    count = len(patterns.index.statistics(patterns.kind).uses)
    place = {word: rank for rank, word in enumerate(ranking.tolist())}
    for word in wanted:
        if word >= count:
            raise UserError(f"there is no word {word}", fix=f"words are 0 to {count - 1}")
        if word not in place:
            raise UserError(
                f"word {word} stands for nothing in these images",
                why=f"{len(place)} of {count} words are in use, or in --min-images images",
            )
    return [place[word] for word in wanted]


def file_stem(pattern: Pattern, patterns: Patterns) -> str:
    """The published name of a picture, without its ending."""
    place = f"crank{pattern.rank}_cid{pattern.word}"
    return f"c{patterns.kind}_{place}_top{patterns.top_k}"


def mosaic(pattern: Pattern, top_k: int) -> NDArray[np.uint8]:
    """The windows of a pattern in a square: uint8 [H, W, 3]. Raises ValueError without any."""
    return layout(pattern.windows, top_k, BETWEEN)


def one_sheet(pattern: Pattern, patterns: Patterns) -> Sheet:
    """A word alone: nothing but its windows, as published."""
    pixels = mosaic(pattern, patterns.top_k)
    sheet = Sheet(pixels.shape[1], pixels.shape[0])
    sheet.picture(0, 0, pixels)
    return sheet


def all_sheet(found: Sequence[Pattern], patterns: Patterns, notes: Sequence[str]) -> Sheet:
    """Words side by side, each with what it is and how often it is used."""
    columns = columns_for(len(found))
    cell = max(CELL, WINDOW * columns_for(patterns.top_k))
    across = cell + 2 * GAP
    width = max(columns, 2) * across
    lines = wrapped(notes, width - 2 * GAP)
    top = 2 * GAP + LINE * len(lines)
    mosaics = [mosaic(one, patterns.top_k) if one.windows else None for one in found]
    tall = [
        max((height_of(one, cell) for one in mosaics[start : start + columns]), default=0)
        for start in range(0, len(found), columns)
    ]
    words = 2 * (SMALL + 4) + GAP
    sheet = Sheet(width, top + sum(tall) + len(tall) * (words + GAP))
    write_lines(sheet, lines, GAP)
    for i, (pattern, pixels) in enumerate(zip(found, mosaics, strict=True)):
        row, column = divmod(i, columns)
        x, y = GAP + column * across, top + sum(tall[:row]) + row * (words + GAP)
        if pixels is not None:
            sheet.picture(x, y, pixels, (cell, height_of(pixels, cell)), smooth=True)
        below = y + tall[row] + 3
        for line in said(pattern, patterns):
            sheet.words(x, below, fitted(line, cell, SMALL), size=SMALL, color=QUIET)
            below += SMALL + 4
    return sheet


def height_of(pixels: NDArray[np.uint8] | None, width: int) -> int:
    """Pixels of the height of a picture [h, w, 3] that is drawn with a width; 0 for none."""
    return 0 if pixels is None else max(1, round(width * pixels.shape[0] / pixels.shape[1]))


def said(pattern: Pattern, patterns: Patterns) -> tuple[str, str]:
    """Two lines about a word."""
    noun = "patch" if patterns.kind == "patch" else "class token"
    use = f"{counted(pattern.uses, noun)} in {counted(pattern.images, 'image')}"
    if pattern.members:
        scores = [member.score for member in pattern.members]
        shown = f"{len(scores)} shown, score {scores[0]:.2f} to {scores[-1]:.2f}"
    else:
        shown = "all of them dark: none is shown"
    if pattern.purity is not None:
        shown += f"; {100 * pattern.purity:.0f} % {pattern.label}"
    return f"word {pattern.word}: {use}", shown


def note_of(asked: Asked, patterns: Patterns, ranked: int) -> list[str]:
    """What stands above all words."""
    index = patterns.index
    count = len(index.statistics(patterns.kind).uses)
    rows, patches = index.words.shape
    of = f"{rows * patches} patches of {rows}" if patterns.kind == "patch" else f"{rows}"
    by = {"use": "use", "score": "mean score", "purity": "purity"}[asked.options["rank_by"]]
    words = f"words of {patterns.kind} tokens by {by}, {ranked} of {count} ranked"
    lines = [f"{index.name}: {words}; {of} images of {patterns.images.root.name}"]
    if patterns.kind == "patch":
        middle = "orange" if patterns.centre == "cover" else "framed"
        lines.append(
            f"best patch of each image by its largest logit, the patch {middle} in "
            f"{patterns.side} x {patterns.side} patches around it"
        )
    return [*filter(None, [asked.note]), *lines]


def _rows(found: Sequence[Pattern]) -> Iterator[tuple[object, ...]]:
    """Lines of the table."""
    for pattern in found:
        for one in pattern.members:
            where = (one.row, one.column)
            yield (pattern.rank, pattern.word, one.name, *where, f"{one.score:.5f}")
