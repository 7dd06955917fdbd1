"""Two pictures with lines between patches that match (spec_evaluation 10.3), and what an evaluation
kept of its pairs of views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.eval.probes.correspondence import Correspondence
from ibot.eval.probes.kept_pairs import FILE, Pair, read_pairs
from ibot.eval.probes.match_places import Cells, cells_apart
from ibot.show.canvas import GAP, INK, QUIET, Color, Sheet
from ibot.show.colours import between_ends, in_colors
from ibot.show.layout import LINE, wrapped, write_lines
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.types import ResultRecord

LINES = 12
"""Matches that are drawn, as published: those of the most salient patches."""
HEIGHT, MOST_WIDTH = 360, 640
"""Pixels that a picture is drawn with, whatever it has."""
RIGHT_WITHIN = 1
"""Patches from the true place up to which a line is drawn as right."""
RANK_COLORS: tuple[Color, ...] = (
    (240, 228, 66),
    (230, 159, 0),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""From the most salient patch to the least: told apart by colour-blind eyes."""
CORNER_COLORS: tuple[Color, ...] = ((0, 114, 178), (240, 228, 66), (0, 158, 115), (213, 94, 0))
"""Of dense matches: a patch of the first picture takes the colour of its place between these
corners, upper left, upper right, lower left, lower right."""
TINT = 0.65
"""Share of that colour."""
DASH = 7
"""Pixels of the dashes of a line that is wrong, and of the spaces between them."""

Style = Literal["lines", "dense"]


def draw(records: Sequence[ResultRecord], out: Path) -> list[Path]:
    """A PNG for each pair of views that the records' evaluations kept; none where none were."""
    written = []
    for name in dict.fromkeys(record.extra.get("shown", "") for record in records):
        folder = out / name
        if name and (folder / FILE).is_file():
            title, pairs = read_pairs(folder)
            for number, pair in enumerate(pairs):
                sheet = pair_sheet(pair, chosen(pair.found), title=title)
                written.append(sheet.save(folder / f"{number:02}.png"))
    return written


def chosen(found: Correspondence, count: int = LINES, *, mutual: bool = False) -> NDArray[np.int64]:
    """The patches of the first picture whose matches are drawn, the most salient first.

    Of those that have a true place, where one is known. count: 0: all. mutual: only patches that
    find each other. Returns int64 [m].
    """
    kept = np.ones(len(found.saliency), bool)
    if found.truth is not None:
        kept &= found.truth.held.numpy()
    if mutual:
        kept &= found.matches.mutual.numpy()
    order = np.argsort(-found.saliency.numpy(), kind="stable")
    return order[kept[order]][: count or None]


def pair_sheet(
    pair: Pair,
    patches: NDArray[np.int64],
    *,
    title: str = "",
    style: Style = "lines",
    attention: bool = False,
) -> Sheet:
    """Both pictures side by side, the matches of `patches` [m] over them, and what they are.

    style: lines, coloured by rank, dashed where the match is known to be wrong; or dense: each
    patch of the first picture in a colour of its place, each of the second in that of the patch
    that it finds, gray where they do not find each other. attention: the saliency of the first
    picture's patches before both. Raises MissingExtra for that without matplotlib.
    """
    first, second = (_Placed(*both) for both in zip(pair.pictures, pair.found.cells, strict=True))
    shown = [first.saliency(pair.found.saliency.numpy())] if attention else []
    if style == "dense":
        shown += _tinted(pair.found, first, second)
    else:
        shown += [first.pixels(), second.pixels()]
    lefts = [GAP]
    for picture in shown:
        lefts.append(lefts[-1] + picture.shape[1] + GAP)
    notes = [title, *_said(pair, patches, style)]
    lines = wrapped(notes, lefts[-1] - 2 * GAP)
    height = max(first.size[1], second.size[1])
    sheet = Sheet(lefts[-1], height + 2 * GAP + LINE * len(lines))
    for left, picture in zip(lefts, shown, strict=False):
        sheet.picture(left, GAP, picture)
    if style == "lines":
        first.left, second.left = lefts[-3], lefts[-2]
        _lines(sheet, pair.found, patches, first, second)
    write_lines(sheet, lines, height + 2 * GAP, INK if title else QUIET)
    return sheet


class _Placed:
    """A picture at its place on the sheet."""

    def __init__(self, picture: NDArray[np.uint8], cells: Cells) -> None:
        rows, columns = picture.shape[:2]
        scale = min(HEIGHT / rows, MOST_WIDTH / columns)
        self.size = max(1, round(scale * columns)), max(1, round(scale * rows))
        self.picture, self.cells = picture, cells
        self.cell = self.size[1] / cells.spans[0], self.size[0] / cells.spans[1]
        self.left = GAP

    def pixels(self) -> NDArray[np.uint8]:
        """The picture with its size on the sheet."""
        image = Image.fromarray(self.picture)
        return np.asarray(image.resize(self.size, Image.Resampling.BICUBIC))

    def spread(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [N, ...] of the patches as pixels [H, W, ...]: each fills its cell."""
        values = grid.reshape(*self.cells.grid, *grid.shape[1:])
        across, down = self.size
        rows = np.minimum(np.arange(down) / self.cell[0], self.cells.grid[0] - 1).astype(int)
        columns = np.minimum(np.arange(across) / self.cell[1], self.cells.grid[1] - 1).astype(int)
        return values[rows][:, columns]

    def saliency(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """That of the patches, in colours."""
        return in_colors(self.spread(between_ends(values)))

    def corner(self, patch: int) -> tuple[float, float]:
        """Left and upper edge of a patch on the sheet."""
        row, column = divmod(patch, self.cells.grid[1])
        return self.left + column * self.cell[1], GAP + row * self.cell[0]

    def centre(self, patch: int) -> tuple[float, float]:
        """Of a patch on the sheet."""
        x, y = self.corner(patch)
        return x + self.cell[1] / 2, y + self.cell[0] / 2


def rank_color(rank: int, count: int) -> Color:
    """The colour of one of `count` lines, from the first of `RANK_COLORS` to the last."""
    place = rank / max(1, count - 1) * (len(RANK_COLORS) - 1)
    low = min(int(place), len(RANK_COLORS) - 2)
    one, other = RANK_COLORS[low], RANK_COLORS[low + 1]
    mixed = [round(a + (place - low) * (b - a)) for a, b in zip(one, other, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def place_colors(cells: Cells) -> NDArray[np.float64]:
    """RGB 0..255 of each patch by its place between `CORNER_COLORS`: float64 [N, 3]."""
    down, across = (np.linspace(0, 1, max(2, side))[:side] for side in cells.grid)
    corners = np.array(CORNER_COLORS, np.float64).reshape(2, 2, 3)
    rows = (1 - down)[:, None, None] * corners[0] + down[:, None, None] * corners[1]
    grid = (1 - across)[None, :, None] * rows[:, :1] + across[None, :, None] * rows[:, 1:]
    return grid.reshape(-1, 3)


def _tinted(found: Correspondence, first: _Placed, second: _Placed) -> Iterator[NDArray[np.uint8]]:
    """Both pictures in the colours of places in the first one."""
    colors, back = place_colors(first.cells), found.matches.back.numpy()
    mutual = found.matches.found.numpy()[back] == np.arange(len(back))
    for placed, own, share in (
        (first, colors, np.ones(len(colors))),
        (second, colors[back], mutual.astype(np.float64)),
    ):
        gray = placed.pixels().astype(np.float64).mean(axis=-1, keepdims=True)
        weight = TINT * placed.spread(share[:, None])
        yield ((1 - weight) * gray + weight * placed.spread(own)).round().astype(np.uint8)


def _lines(
    sheet: Sheet,
    found: Correspondence,
    patches: NDArray[np.int64],
    first: _Placed,
    second: _Placed,
) -> None:
    """The most salient last, above the others."""
    few = len(patches) <= 4 * LINES
    width = 2.0 if few else 1.0
    right = rightly(found)
    for rank in reversed(range(len(patches))):
        patch, color = int(patches[rank]), rank_color(rank, len(patches))
        there = int(found.matches.found[patch])
        ends = first.centre(patch), second.centre(there)
        solid = right is None or bool(right[patch])
        for start, stop in [ends] if solid else _dashes(*ends):
            if few:
                sheet.line([start, stop], INK, width + 2)
            sheet.line([start, stop], color, width)
        for placed, number in ((first, patch), (second, there)) if few else ():
            corner, (down, across) = placed.corner(number), placed.cell
            sheet.box(corner[0] - 1, corner[1] - 1, across + 2, down + 2, line=INK, thick=4)
            sheet.box(*corner, across, down, line=color, thick=2)


def rightly(found: Correspondence) -> NDArray[np.bool_] | None:
    """Which matches are at most `RIGHT_WITHIN` from the truth: bool [N]; None: nothing is known."""
    if found.truth is None:
        return None
    columns = found.cells[1].grid[1]
    apart = cells_apart(found.matches.found, found.truth.place, columns)
    return (apart <= RIGHT_WITHIN).numpy()


def _dashes(
    start: tuple[float, float], stop: tuple[float, float]
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Pieces of a line."""
    along = np.subtract(stop, start)
    count = max(1, round(float(np.hypot(*along)) / (2 * DASH)))
    ends = np.linspace(0, 1, 2 * count)[:, None] * along + start
    pairs = [(ends[i].tolist(), ends[i + 1].tolist()) for i in range(0, 2 * count, 2)]
    return [((a[0], a[1]), (b[0], b[1])) for a, b in pairs]


def _said(pair: Pair, patches: NDArray[np.int64], style: Style) -> Iterator[str]:
    """What stands below the pictures."""
    found = pair.found
    names = [Path(name).name for name in pair.names]
    yield " and ".join(names) if len(names) > 1 else f"two views of {names[0]}"
    by = "cosine" if found.cosine else "inner product"
    mutual = int(found.matches.mutual.sum())
    every = f"{mutual} of {len(found.saliency)} patches find each other"
    if style == "dense":
        yield f"most similar patches by {by}, in the colour of their place in the first; {every}"
    else:
        drawn = f"{counted(len(patches), 'patch')} of the first, yellow to blue"
        yield f"most similar patches by {by}: {drawn} by {found.salient_by}; {every}"
    right = rightly(found)
    if right is None:
        return
    about = found.accuracy()
    if not about["patches"]:
        yield "no patch of the first lies in the second"
        return
    shares = [
        f"within {radius}: {100 * share['found']:.0f} % (chance {100 * share['chance']:.1f})"
        for radius, share in about["within"].items()
    ]
    if style == "lines":
        yield (
            f"{int(right[patches].sum())} of the {len(patches)} drawn are at most {RIGHT_WITHIN} "
            "patch from the true place; the others are dashed"
        )
    yield f"all {about['patches']} patches with a true place: {', '.join(shares)}"
